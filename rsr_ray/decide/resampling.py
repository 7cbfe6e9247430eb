"""resampling: how sure a mean correlation is, by resampling teachers, alike for every student.

A teacher keeps its accuracies under every student: one that is bad for one student is bad for all,
so students are no independent witnesses.

Legend: T teachers of all students, R resamples.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from rsr_ray.decide.pair import Pair

SEED = 0
RESAMPLES = 10_000
CHUNK = 2_000  # resamples that are held at once
# The share of draws with a correlation below which those are too few to stand for all draws.
USABLE = 0.9
SAME = 1e-9  # correlations closer than this are equal but for rounding


def permutation_p(pairs: Sequence[Pair], n_teachers: int, n_permutations: int) -> float:
    """P(|mean over students of Spearman| is at least the one seen) if the metric is unrelated to
    accuracy.

    The accuracies are exchanged between teachers. Exact if the orders of the T teachers are no
    more than `n_permutations`, else at least 1 / (n_permutations + 1).
    """

    def statistic(orders: np.ndarray, axis: int) -> np.ndarray:
        orders = np.atleast_2d(orders)  # [R, T]
        mean = np.mean([pair.spearman_of_orders(orders) for pair in pairs], axis=0)
        absolute: np.ndarray = np.abs(mean)
        return absolute

    test = stats.permutation_test(
        (np.arange(n_teachers),),
        statistic,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=n_permutations,
        batch=CHUNK,
        alternative="greater",
        axis=-1,
        rng=np.random.default_rng(SEED),
    )
    return float(np.squeeze(test.pvalue))


@dataclass(frozen=True)
class BootstrapInterval:
    """A 95% interval of the mean over students of Spearman, or why there is none."""

    ends: tuple[float, float] | None  # lower, upper
    method: str | None  # BCa or percentile
    why_none: str | None

    def to_json(self) -> dict[str, Any]:
        return {
            "interval": self.ends and list(self.ends),
            "interval_method": self.method,
            "why_no_interval": self.why_none,
        }


NO_INTERVAL = BootstrapInterval(None, None, None)  # because there is no correlation


def bootstrap_interval(pairs: Sequence[Pair], n_teachers: int, n_draws: int) -> BootstrapInterval:
    """The interval from `n_draws` draws of T teachers with replacement.

    BCa (B. Efron, Better Bootstrap Confidence Intervals, JASA 82, 1987); if that is undefined,
    percentiles of the draws that have a correlation. None, with the reason, if too few draws have
    one or all have the same.
    """
    with np.errstate(all="ignore"), warnings.catch_warnings():
        # What these two warn of is answered below.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        rng = np.random.default_rng(SEED)
        drawn = _bootstrap(pairs, n_teachers, method="percentile", n_resamples=n_draws, rng=rng)
        found = drawn.bootstrap_distribution
        usable = found[np.isfinite(found)]
        if why := _why_no_interval(usable, n_draws):
            return BootstrapInterval(None, None, why)
        if len(usable) == n_draws:
            bca = _bootstrap(pairs, n_teachers, method="BCa", n_resamples=0, bootstrap_result=drawn)
            low, high = map(float, bca.confidence_interval)
            if math.isfinite(low) and math.isfinite(high):
                return BootstrapInterval((low, high), "BCa", None)
    low, high = map(float, np.percentile(usable, [2.5, 97.5]))
    return BootstrapInterval((low, high), "percentile", None)


def _why_no_interval(usable: np.ndarray, n_draws: int) -> str | None:
    """Of the correlations of the draws that have one."""
    if len(usable) < USABLE * n_draws:
        return f"only {len(usable) / n_draws:.1%} of the draws of teachers have a correlation"
    if np.ptp(usable) < SAME:
        return "every draw of teachers has the same correlation"
    return None


def _bootstrap(pairs: Sequence[Pair], n_teachers: int, **how: Any) -> Any:
    """scipy's result for the mean over students of Spearman.

    A draw may leave a student fewer than two teachers, or only teachers with equal values; its
    mean is then over the other students.
    """

    def statistic(drawn: np.ndarray, axis: int) -> np.ndarray:
        counts = (drawn[..., None] == np.arange(n_teachers)).sum(-2)
        each = [pair.spearman_of_draws(counts.reshape(-1, n_teachers)) for pair in pairs]
        mean: np.ndarray = np.nanmean(each, axis=0).reshape(counts.shape[:-1])
        return mean

    teachers = (np.arange(n_teachers),)
    return stats.bootstrap(teachers, statistic, vectorized=True, batch=CHUNK, axis=-1, **how)
