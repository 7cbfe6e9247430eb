"""The metrics: one registry of names, formulas, directions and sources.

Every ranking takes its direction from here.

A metric of a trajectory is `numerator / denominator`, two columns of its sums. A teacher's value is
made of two terms a trajectory, x and y, as mean(x) / mean(y): for a ratio both are means over the
tokens (so every trajectory weighs the same), for a mean x is the trajectory's value and y is 1.

Symbols of the formulas: over the scored tokens t of a trajectory p_t, l_t = -ln p_t, r_t = rank,
H_t = entropy of the student's distribution, q_t = its sum of squared probabilities; T tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from rsr_ray.errors import UserError

# The source of RSR, and of the published figures of all metrics it was compared with.
PAPER = "arXiv 2601.14249"
# Shares, as fractions, of a trajectory's most surprising tokens.
HARDEST = {"top30": (3, 10), "top20": (2, 10)}
HIGH_ENTROPY = (1, 200)  # the share, as a fraction, of the tokens that HES adds up
FIRST_TOKENS = 2  # of each sentence, which ASLEC-DROP leaves out
IMPROBABLE = 0.01  # probability under which Reverse Speculative Decoding refuses a teacher's token
LEAST_SURPRISAL = 2.0**-24  # nats: float32 cannot tell a probability closer to 1 from 1


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number of a trajectory, and of a teacher."""

    name: str
    formula: str
    unit: str
    source: str = PAPER  # the paper, or what it is for
    better: str  # "lower", "higher", or "-": it has no direction, and nothing is ranked by it
    numerator: str
    denominator: str | None = "n_tokens"  # None is 1
    sign: int = 1
    # of a teacher: mean(numerator / T) / mean(denominator / T), not the mean of the ratios
    ratio_of_means: bool = False
    within_prompt: bool = False  # its value depends on the other answers to the same prompt
    # mean over 5 students of abs. Spearman with post-training accuracy, 11 teachers
    published: float | None = None
    n_tokens: str = "n_tokens"  # the column of the tokens it is taken over
    segment: str | None = None  # of which it is taken, see `on`

    def on(self, segment: str | None) -> "Metric":
        """The metric of a segment, of columns `segment/column`. Raises UserError if it has none."""
        if segment is None:
            return self
        if not self.has_segments:
            raise UserError(f"--segment {segment}: --by {self.name} cannot be had on a segment")
        return replace(
            self,
            name=f"{self.name} on {segment}",
            numerator=f"{segment}/{self.numerator}",
            denominator=self.denominator and f"{segment}/{self.denominator}",
            n_tokens=f"{segment}/n_tokens",
            segment=segment,
        )

    @property
    def has_segments(self) -> bool:
        """Whether a segment has its columns: not what is taken over steps, or other answers."""
        of_steps = any("step" in name or "sentence" in name for name in self.columns)
        return not (of_steps or self.within_prompt)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of SCORES it is made of."""
        made_of = (self.numerator, self.denominator, self.n_tokens)
        return tuple(dict.fromkeys(name for name in made_of if name))

    @property
    def way_out(self) -> str:
        """How rows get its columns."""
        if self.segment:
            return "with --segments, or --segment NAME=REGEX for a name, which adds them"
        return f"with --metrics {self.name}" if self.name == "local_naturalness" else "again"

    def terms(
        self, columns: Mapping[str, np.ndarray], prompts: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """x and y of each trajectory, float64 [N]: its value is x / y.

        A teacher's value is mean(x) / mean(y).

        `columns` holds `self.columns`, each [N]; `prompts` int [N] says which trajectories answer
        the same prompt.
        """
        n_tokens = columns[self.n_tokens].astype(np.float64)
        if self.within_prompt:
            assert prompts is not None
            return lark(
                columns["surprisal_sum"] / n_tokens, columns["brier_sum"] / n_tokens, prompts
            ), np.ones_like(n_tokens)
        above = self.sign * columns[self.numerator].astype(np.float64)
        below = (
            columns[self.denominator].astype(np.float64)
            if self.denominator
            else np.ones_like(above)
        )
        return (
            (above / n_tokens, below / n_tokens)
            if self.ratio_of_means
            else (above / below, np.ones_like(n_tokens))
        )

    def values(
        self, columns: Mapping[str, np.ndarray], prompts: np.ndarray | None = None
    ) -> np.ndarray:
        """The metric of each trajectory, float64 [N]."""
        if self.within_prompt:
            return self.terms(columns, prompts)[0]
        # One division, as the columns of SCORES are made: x / y has two more, and would part values
        # that are equal.
        above = self.sign * columns[self.numerator]
        return above / columns[self.denominator] if self.denominator else above.astype(np.float64)

    def check_direction(self) -> None:
        """Raise UserError for a metric that nothing can be ranked by."""
        if self.better == "-":
            raise UserError(
                f"--by {self.name}: this metric has no direction, so nothing can be ranked by "
                "it; rsr-ray metrics lists the directions"
            )

    def order(self, values: np.ndarray) -> np.ndarray:
        """Values turned so that lower is better."""
        return -values if self.better == "higher" else values


# What a choice by a metric is compared with: name -> formula, which is better.
CONTROLS: dict[str, tuple[str, str]] = {
    "random": (
        "the first 53 bits of sha256(seed, prompt_id, teacher, trajectory_id), as a number in "
        "[0, 1)",
        "lower",
    ),
    "longest": ("T", "higher"),
    "shortest": ("T", "lower"),
    "rule_quality": (
        "0.30 z(T) + 0.20 z(check, verify) + 0.25 z(perhaps, might) + 0.25 z(therefore, since), "
        "each the share of these words among all words; z among the prompt's candidates (arXiv "
        "2502.03387)",
        "higher",
    ),
}


def lark(loss: np.ndarray, brier: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """LARK's score (arXiv 2605.30651) of each trajectory in its prompt, float64 [N].

    With L = loss (nats a token) and rho = brier / loss:
    g_k = (L_k / sum L) (2 rho_k - sum rho L / sum L), sums over the prompt's candidates.
    `prompts` int [N].
    """
    _, group = np.unique(prompts, return_inverse=True)
    total, weighted = np.bincount(group, loss)[group], np.bincount(group, brier)[group]
    return loss / total * (2 * brier / loss - weighted / total)


def _rsr(suffix: str, clip: str, published: float | None) -> Metric:
    return Metric(
        name=f"rsr{suffix}",
        formula=f"sum {clip} / sum l",
        unit="ranks per nat",
        better="lower",
        numerator=f"rank_sum{suffix}",
        denominator="surprisal_sum",
        ratio_of_means=True,
        published=published,
    )


REGISTRY: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _rsr("", "min(r, r_max)", 0.856),
        _rsr("_50", "min(r, 50)", 0.696),
        _rsr("_200", "min(r, 200)", None),
        _rsr("_500", "min(r, 500)", 0.822),
        _rsr("_unclipped", "r", 0.700),
        Metric(
            name="rsr_mean",
            formula="mean over trajectories of rsr",
            unit="ranks per nat",
            better="lower",
            numerator="rank_sum",
            denominator="surprisal_sum",
            published=0.838,
        ),
        Metric(
            name="rsr_token_mean",
            formula="mean min(r, r_max) / l; unbounded as l nears 0; found to be of no use",
            unit="ranks per nat",
            better="-",
            numerator="token_ratio_sum",
            published=0.391,
        ),
        Metric(
            name="rsr_token_mean_top30",
            formula="mean min(r, r_max) / l over the 30% of tokens with the highest l",
            unit="ranks per nat",
            better="lower",
            numerator="token_ratio_top30_sum",
            denominator="n_top30",
            published=0.793,
        ),
        Metric(
            name="rank_entropy_ratio",
            formula="sum min(r, r_max) / sum H",
            unit="ranks per nat",
            better="lower",
            numerator="rank_sum",
            denominator="entropy_sum",
            ratio_of_means=True,
            published=0.764,
        ),
        Metric(
            name="mean_rank",
            formula="mean min(r, r_max)",
            unit="ranks per token",
            better="lower",
            numerator="rank_sum",
            published=0.552,
        ),
        Metric(
            name="mean_rank_unclipped",
            formula="mean r",
            unit="ranks per token",
            better="lower",
            numerator="rank_sum_unclipped",
            published=0.59,
        ),
        Metric(
            name="mean_surprisal",
            formula="mean l; its negative is global naturalness, the criterion of GRAPE",
            unit="nats per token",
            source="arXiv 2502.04194",
            better="lower",
            numerator="surprisal_sum",
            published=0.49,
        ),
        Metric(
            name="mean_entropy",
            formula="mean H",
            unit="nats per token",
            better="lower",
            numerator="entropy_sum",
            published=0.495,
        ),
        Metric(
            name="local_naturalness",
            formula=(
                "mean over steps of mean -l, given only the prompt and the last steps (--steps, "
                "--step-window)"
            ),
            unit="nats per token",
            source="arXiv 2510.03988",
            better="higher",
            numerator="step_surprisal_sum",
            denominator="n_steps",
            sign=-1,
            published=0.51,
        ),
        Metric(
            name="min_k",
            formula="mean l over the 20% of tokens with the highest l",
            unit="nats per token",
            source="arXiv 2310.16789",
            better="lower",
            numerator="surprisal_top20_sum",
            denominator="n_top20",
        ),
        Metric(
            name="brier",
            formula="mean 1 - 2p + q",
            unit="1",
            source="arXiv 2605.30651",
            better="lower",
            numerator="brier_sum",
        ),
        Metric(
            name="improbable_share",
            formula=(
                f"share of tokens with p < {IMPROBABLE}: those that Reverse Speculative Decoding "
                "rejects"
            ),
            unit="1",
            source="arXiv 2509.22230",
            better="lower",
            numerator="n_improbable",
        ),
        Metric(
            name="hes",
            formula="sum H over the 0.5% of tokens of highest H, natural log; grows with T",
            unit="nats",
            source="arXiv 2605.22389",
            better="higher",
            numerator="high_entropy_sum",
            denominator=None,
        ),
        Metric(
            name="aslec_drop",
            formula="mean -l without the first two tokens of each sentence",
            unit="nats per token",
            source="arXiv 2604.06834",
            better="higher",
            numerator="surprisal_within_sentences_sum",
            denominator="n_within_sentences",
            sign=-1,
        ),
        Metric(
            name="lark",
            formula=(
                "(L / sum L) (2 rho - sum rho L / sum L), L = mean l, rho = brier / L, sums over "
                "the prompt's answers"
            ),
            unit="1",
            source="arXiv 2605.30651",
            better="higher",
            numerator="brier_sum",
            denominator="surprisal_sum",
            within_prompt=True,
        ),
        Metric(
            name="n_tokens",
            formula="T, the length: a control to show next to every metric",
            unit="tokens",
            better="-",
            numerator="n_tokens",
            denominator=None,
            published=0.53,
        ),
    )
}

RSR = REGISTRY["rsr"]
METRICS = REGISTRY  # as `rsr_ray.METRICS`


def find_metric(name: str, segment: str | None = None) -> Metric:
    """A metric of the registry, on a segment if one is named. Raises UserError."""
    if name not in REGISTRY:
        raise UserError(f"--by {name}: no such metric; metrics: {', '.join(REGISTRY)}")
    return REGISTRY[name].on(segment)
