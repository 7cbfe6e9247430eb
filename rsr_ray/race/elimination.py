"""elimination: which teachers cannot win any more, from as few prompts as the confidence allows.

Successive elimination (Even-Dar, Mannor & Mansour, JMLR 7, 2006) on paired differences. Prompts
come in rounds, every teacher still alive answers the same ones, and after each round those leave
that are surely worse than the leader. What is asked for is the winner on the N prompts of the
corpus, not on prompts to come: so spreads carry the finite population correction sqrt(1 - n/N), and
with every prompt scored nothing is left to chance.

The chance of a wrong answer is at most 1 - confidence, in so far as the means of n prompts are
normal: only comparisons of the true winner with another teacher can go wrong, T - 1 of them at each
of K - 1 looks (the K-th has every prompt), and each one-sided bound gets (1 - confidence) /
((T - 1) (K - 1)) of it (Bonferroni). What affects fewer than one prompt in n is not seen in n
prompts, and no such bound knows of it: the first round is large enough to show what 4% of a
teacher's answers do (`first_prompts`); `python -m tests.simulate_race` measures what that is worth.

A teacher of whom nothing was scored yet is compared with nobody. It leaves once the chance of that,
had it a score for MIN_PROMPTS of all prompts, is no more than that of one bound: with fewer it
could decide nothing. This comes on top of the chance above, for a true winner of whom most answers
are rejected.

Legend: P prompts so far, N prompts in all, T teachers, A of them alive.
"""

import math
from dataclasses import dataclass

import numpy as np

from rsr_ray.config.race import MIN_PROMPTS
from rsr_ray.decide.inference import influence, interval

# Of the prompts from look to look: 2 costs a tenth more, 1.3 hardly less (CHANGELOG.md).
GROWTH = 1.5
# Share of a teacher's answers that are loops or cut-offs, say. Before any teacher is dropped, each
# should have shown some.
JUNK = 0.04
# Of all prompts, in the first round of a large corpus: costs little, and rare answers show.
FIRST_SHARE = 0.02


def first_prompts(n_teachers: int, confidence: float) -> int:
    """Prompts before a teacher is dropped.

    So many that a third of what the confidence leaves is the chance that any rival of which JUNK of
    the answers are junk has shown none: that one would look better than it is, and its spread
    smaller, which no bound can see.
    """
    chance = (1 - confidence) / 3 / max(n_teachers - 1, 1)
    return max(MIN_PROMPTS, math.ceil(math.log(chance) / math.log1p(-JUNK)))


def round_ends(n_prompts: int, first_round: int) -> list[int]:
    """Prompts scored after each round, int [K], growing by GROWTH up to all of them."""
    end = first_round
    ends = []
    while end < n_prompts:
        ends.append(end)
        end = math.ceil(end * GROWTH)
    return [*ends, n_prompts]


def t_quantile(p: float, n: int) -> float:
    """Of Student's distribution for n prompts."""
    from scipy.special import stdtrit

    return float(stdtrit(max(n - 1, 1), p))


def standard_error(z: np.ndarray, share: float) -> np.ndarray:
    """Of the means of z [P, A] where `share` of the finite population was drawn, [A]."""
    if share == 1:
        return np.zeros(z.shape[1])
    return z.std(0, ddof=1) / math.sqrt(len(z)) * math.sqrt(1 - share)


def own_intervals(
    value: np.ndarray, z: np.ndarray, share: float, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """The ends, [A] each, of the intervals of values [A] to which each prompt adds z [P, A].

    They are those that `teachers` prints, drawn in by the finite population correction, as `share`
    of the finite population was drawn.
    """
    if share == 1:
        return value, value
    found = interval(value, z, confidence)
    part = math.sqrt(1 - share)
    return value + part * (found.low - value), value + part * (found.high - value)


@dataclass(frozen=True)
class Standing:
    """A teacher's value when it was last looked at, and its interval at the confidence.

    Lower is better.
    """

    value: float
    low: float  # where it is exact, the value itself; NaN where nothing is known of it
    high: float
    exact: bool  # every prompt was tried, so there is nothing to infer
    n_prompts: int  # that every teacher then alive had a score for
    round: int  # 1-based


class Elimination:
    """The state of a race: give it the scores of each round, and it says who is still in."""

    def __init__(
        self,
        teachers: list[str],
        n_prompts: int,
        *,
        confidence: float = 0.95,
        margin: float = 0.01,
        first_round: int | None = None,
    ):
        self.n_prompts = n_prompts
        self.confidence = confidence
        self.margin = margin
        least = first_prompts(len(teachers), confidence)
        first = first_round or max(least, math.ceil(FIRST_SHARE * n_prompts))
        self.ends = round_ends(n_prompts, first)  # prompts after each round
        # prompts with a score of all compared, before one of them is dropped on a bound
        self.least = min(least, self.ends[0])
        n_bounds = max(len(teachers) - 1, 1) * max(len(self.ends) - 1, 1)
        self.alpha = (1 - confidence) / n_bounds  # of one bound at one look
        self.alive = list(teachers)
        self.round = 0
        self.n_compared = 0  # prompts, at the last look
        self.standings: dict[str, Standing] = {}
        self.left: dict[str, str] = {}  # why each that is out left, in the order in which they left
        self.unscored: list[str] = []  # those of them of whom nothing could be scored
        self.winner = teachers[0] if len(teachers) == 1 else None
        # why the race is over, once it is
        self.reason = "there is no other teacher" if self.winner else ""

    @property
    def finished(self) -> bool:
        return bool(self.reason)

    @property
    def leader(self) -> str | None:
        """The one alive with the lowest value, the first by name of equals; None without any."""
        return min(
            (name for name in self.alive if name in self.standings),
            key=lambda name: (self.standings[name].value, name),
            default=None,
        )

    def update(self, x: np.ndarray, y: np.ndarray) -> None:
        """Decide on the prompts of all rounds so far.

        x, y: float64 [P, A], the terms of `alive`, in its order, by prompt, x turned so that a
        lower x / y is better; NaN where there is no score. P is `ends[round]`. Only prompts with a
        score of every teacher alive count, but for those of whom there is none yet.
        """
        assert not self.finished
        assert x.shape == y.shape == (self.ends[self.round], len(self.alive))
        self.round += 1
        n_tried = len(x)
        scored = np.isfinite(x)  # [P, A]
        some = scored.any(0)  # [A]
        names = [name for name, compared in zip(self.alive, some, strict=True) if compared]
        if self._chance_of_none(n_tried) <= self.alpha:
            gone = [name for name in self.alive if name not in names]
            self.unscored += gone
            why = f"none of its answers to {n_tried:,} prompts could be scored"
            self._leave(dict.fromkeys(gone, why))
        if not self.alive:
            self.reason = "nothing could be scored"
            return
        whole = scored[:, some].all(1)  # [P]
        self.n_compared = int(whole.sum()) if names else 0
        n = self.n_compared
        if n >= 2 or (n == 1 and n_tried == self.n_prompts):
            self._decide(names, x[whole][:, some], y[whole][:, some], n_tried)
        if n_tried == self.n_prompts and not self.finished:
            self.reason = (
                f"{n:,} of {n_tried:,} prompts have a score of every remaining teacher; fewer "
                f"than {MIN_PROMPTS} cannot decide a race"
            )

    def _chance_of_none(self, n: int) -> float:
        """That of n prompts of all, drawn at random, none is one of MIN_PROMPTS given ones."""
        return math.comb(self.n_prompts - n, MIN_PROMPTS) / max(
            math.comb(self.n_prompts, MIN_PROMPTS), 1
        )

    def _decide(self, names: list[str], x: np.ndarray, y: np.ndarray, n_tried: int) -> None:
        """The same of prompts with a score of every teacher of `names`, [n, len(names)]."""
        n = len(x)
        value, z = influence(x, y)
        share = n_tried / self.n_prompts
        low, high = own_intervals(value, z, share, self.confidence)
        for i, name in enumerate(names):
            self.standings[name] = Standing(
                float(value[i]), float(low[i]), float(high[i]), share == 1, n, self.round
            )
        if n < min(MIN_PROMPTS if share == 1 else self.least, self.n_prompts):
            return
        best = min(range(len(names)), key=lambda i: (value[i], names[i]))
        others = np.arange(len(names)) != best
        behind = value - value[best]
        reach = t_quantile(1 - self.alpha, n) * standard_error(z - z[:, [best]], share)
        lost = others & ((behind > reach) | (share == 1))
        near = others & ~lost & (reach - behind <= self.margin * abs(value[best]))
        equal = lost & (behind == 0)
        over = bool((lost | near)[others].all()) and len(names) == len(self.alive)
        winner = names[best]
        why = {
            name: f"equal to {winner}"
            if equal[i]
            else f"worse than {winner}"
            if lost[i]
            else f"within the margin of {winner}, or worse"
            for i, name in enumerate(names)
            if lost[i] or (near[i] and over)
        }
        self._leave(why)
        if over:
            self.winner = winner
            tied = [names[i] for i in np.flatnonzero(equal)]
            self.reason = self._why_over(n, share, near=bool(near.any()), equal=tied)

    def _why_over(self, n: int, share: float, *, near: bool, equal: list[str]) -> str:
        """Why there is a winner.

        By n prompts of all, `share` of which were tried; `near` says whether any other teacher left
        only because it is within the margin, `equal` names those of the same value.
        """
        if share == 1:
            reason = self._why_exact(n)
        elif len(self.unscored) == len(self.left):
            reason = "no other teacher is left"
        else:
            reason = "no other teacher can still win" + " by more than the margin" * near
        if equal:
            tied = ", ".join(equal)
            reason += f"; tied with {tied}, and {self.winner} comes first by name"
        if self.unscored:
            reason += f"; no answer of {', '.join(self.unscored)} could be scored"
        return reason

    def _why_exact(self, n: int) -> str:
        """Why there is a winner once every prompt was tried, n of them with a score of all."""
        on_a_bound = [
            name
            for name in self.left
            if name not in self.unscored and self.standings[name].round < self.round
        ]
        whose = " of the remaining teachers" if on_a_bound else ""
        scored = f"all {n:,} prompts{whose} are scored"
        reason = scored if n == self.n_prompts else "every prompt was tried"
        if on_a_bound:
            reason += f"; {', '.join(on_a_bound)} dropped out earlier, on a confidence bound"
        return reason

    def _leave(self, why: dict[str, str]) -> None:
        """Teachers leave, each with its reason."""
        self.left |= why
        self.alive = [name for name in self.alive if name not in self.left]
