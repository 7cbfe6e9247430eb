"""degeneration: what degenerate trajectories do to a ranking: who has them, and who leads without.

RSR rewards a loop, so a teacher can be first because of what nobody would train on. What is
degenerate, rsr_ray/guard.py says. Legend: N trajectories, T teachers.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_ray.decide.flags import Flags
from rsr_ray.decide.json_values import known
from rsr_ray.decide.scored import Scored
from rsr_ray.decide.spearman import spearman
from rsr_ray.errors import counted
from rsr_ray.guard import GUARD_COLUMNS
from rsr_ray.metrics import Metric

if TYPE_CHECKING:
    from rsr_ray.decide.ranking import Ranking

# Of the test behind a warning. It looks at the first teacher, which is first for what the test
# looks at as well, so warnings without reason may be more frequent: README.md has how frequent.
SURE = 0.01


@dataclass(frozen=True, kw_only=True)
class Degeneration:
    """Degenerate trajectories in a ranking."""

    n_degenerate: int
    n_cut_off: int  # of these
    n_unknown: int  # stored before there was a guard
    # Of the metric and each column of the guard, and whether a trajectory is degenerate: Spearman's
    # correlation, the mean over teachers; None where none has both and neither varies.
    within_teachers: dict[str, float | None]
    left_out: list[str]  # teachers most of whose trajectories are degenerate
    # Of the other trajectories of the other teachers; None where none is degenerate, or no teacher
    # is left.
    without: "Ranking | None"
    warning: str | None  # the first teacher is first only because of them

    @classmethod
    def of(
        cls, scored: Scored, metric: Metric, first: str, rank: Callable[[Scored], "Ranking"]
    ) -> "Degeneration | None":
        """Of trajectories that `rank` puts this teacher first of; None where nothing is known."""
        counts = scored.flag_counts()
        if not counts.known.any():
            return None
        flags = Flags.of(scored.columns)
        flagged = flags.degenerate == 1
        values = metric.order(metric.values(scored.columns, scored.prompt))
        is_mostly = 2 * counts.degenerate > scored.per_teacher
        left_out = [scored.teachers[t] for t in np.flatnonzero(is_mostly)]
        others = scored.others(flagged, left_out)
        without = rank(others) if others is not None else None
        return cls(
            n_degenerate=int(counts.degenerate.sum()),
            n_cut_off=int(counts.both.sum()),
            n_unknown=scored.n_trajectories - int(counts.known.sum()),
            within_teachers=_within_teachers(scored, flags, metric),
            left_out=left_out,
            without=without,
            warning=warning(scored, values, flagged, first, without.teachers[0].teacher)
            if without
            else None,
        )

    @classmethod
    def from_json(cls, found: dict[str, Any], ranking: type["Ranking"]) -> "Degeneration":
        """One of `dataclasses.asdict`."""
        without = found["without"]
        return cls(**found | {"without": ranking.from_json(without) if without else None})

    @property
    def note(self) -> str | None:
        """What a reader has to know of it, in a sentence, where there is anything."""
        if not self.n_degenerate:
            return None
        what = counted(self.n_degenerate, "degenerate trajectory", "degenerate trajectories")
        cut = f", {self.n_cut_off:,} of them cut off" if self.n_cut_off else ""
        if self.without is None:
            return f"{what}{cut}: most trajectories of every teacher"
        rest = "without them"
        if self.left_out:
            rest += f" and {', '.join(self.left_out)}, mostly degenerate"
        return f"{what}{cut}; {rest}: {self.without.sentence}"


def guarded(scored: Scored, metric: Metric, rank: Callable[[Scored], "Ranking"]) -> "Ranking":
    """The ranking that `rank` makes of trajectories, and what degenerate ones do to it."""
    ranking = rank(scored)
    found = Degeneration.of(scored, metric, ranking.teachers[0].teacher, rank)
    if found is None:
        return ranking
    return dataclasses.replace(
        ranking,
        sentence=" ".join(filter(None, [ranking.sentence, found.warning])),
        notes=[*ranking.notes, *filter(None, [found.note])],
        degeneration=found,
    )


def _within_teachers(scored: Scored, flags: Flags, metric: Metric) -> dict[str, float | None]:
    values = metric.values(scored.columns, scored.prompt)
    numbers = {name: scored.columns[name] for name in GUARD_COLUMNS}
    numbers |= {"cut_off": flags.cut_off, "degenerate": flags.degenerate}
    found: dict[str, float | None] = {}
    for name, column in numbers.items():
        there = ~np.isnan(column)
        of_teachers = [
            spearman(values[mine], column[mine])
            for t in range(len(scored.teachers))
            if (mine := there & (scored.teacher == t)).any()
        ]
        defined = [r for r in of_teachers if not math.isnan(r)]
        found[name] = known(float(np.mean(defined))) if defined else None
    return found


def warning(
    scored: Scored, values: np.ndarray, flagged: np.ndarray, first: str, now: str
) -> str | None:
    """That the first teacher is first only because of its degenerate trajectories: `now` is first
    without them, and they are most of its own, or score better than its others, by a one-sided
    Mann-Whitney test.

    `values` [N]: lower is better. What is tested is how far they are from those of the other
    teachers on the same prompt, if these have any: loops may be more frequent on some prompts.
    """
    if now == first:
        return None
    mine = scored.teacher == scored.teachers.index(first)
    n_bad, n_good = int((mine & flagged).sum()), int((mine & ~flagged).sum())
    if scored.told:  # these are a sample
        t = scored.teachers.index(first)
        n_bad = int(scored.told.flags.degenerate[t])
        n_good = int(scored.per_teacher[t]) - n_bad
    if n_bad > n_good:
        most = f"{n_bad:,} of {n_bad + n_good:,} trajectories of {first} are degenerate"
        return f"Warning: {most}; without it {now} is first."
    beside = values - _mean_of_prompts(values, scored.prompt, ~mine & ~flagged)
    some = values if np.isnan(beside[mine & flagged]).all() else beside
    if _chance_of_better(some[mine & flagged], some[mine & ~flagged]) > SURE:
        return None
    return (
        f"Warning: {first} is first only because its degenerate trajectories ({n_bad:,} of "
        f"{n_bad + n_good:,}) score better than its others; without them {now} is first."
    )


def _mean_of_prompts(values: np.ndarray, prompt: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Of each trajectory the mean value of `some`, bool [N], of its prompt, [N]; NaN for none."""
    n = np.bincount(prompt[some], minlength=prompt.max() + 1)
    total = np.bincount(prompt[some], values[some], minlength=len(n))
    mean: np.ndarray = np.divide(total, n, out=np.full(len(n), math.nan), where=n > 0)
    of_rows: np.ndarray = mean[prompt]
    return of_rows


def _chance_of_better(some: np.ndarray, others: np.ndarray) -> float:
    """That chance alone puts `some` as far below `others` as they are; 1 for none."""
    from scipy import stats

    some, others = (values[~np.isnan(values)] for values in (some, others))
    if not len(some) or not len(others):
        return 1.0
    return float(stats.mannwhitneyu(some, others, alternative="less").pvalue)
