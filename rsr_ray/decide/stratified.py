"""stratified: what prompts that were drawn within strata say of values that are sums over strata.

A value is a sum over strata of weight * value in the stratum, and what is drawn is as many prompts
of each stratum as it has (W. Cochran, Sampling Techniques, 1977, chapter 5). All else is as in
inference.py, whose functions these are for one stratum of weight 1: `python -m tests.simulate
strata` prints how often they are right; README holds the table.

Legend: S strata, P prompts of a stratum, T teachers, K pairs of them, B draws.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from rsr_ray.decide.inference import (
    DRAWS,
    GROUPS,
    PAIRS,
    Chances,
    Interval,
    Places,
    chances_of,
    influence,
    interval_of,
    places_of,
    resamples,
    t_of_draws,
)
from rsr_ray.decide.matrices import Matrices
from rsr_ray.metrics import Metric

FEWEST_GROUPS = 20  # of a stratum's prompts, where all strata together have more than GROUPS
Parts = tuple[np.ndarray, ...]  # S of [P, K]: what each prompt adds to values, each of sum 0


@dataclass(frozen=True)
class Stratified:
    """Values of teachers over strata, and what each prompt adds to them."""

    values: np.ndarray  # float64 [T]
    # What of them is due to ratios of means of few prompts: next to nothing in one stratum, but the
    # same way in all, so that it does not shrink beside the error of the sum.
    bias: np.ndarray  # float64 [T]
    parts: Parts  # [P, T] each
    n_prompts: int  # in all strata, of which parts may have blocks

    @classmethod
    def of(cls, strata: Sequence[Matrices], weights: Sequence[float]) -> "Stratified":
        """Of strata with the same teachers, who answered all prompts."""
        values, parts = np.zeros(strata[0].x.shape[1]), []
        bias = np.zeros_like(values)
        for stratum, weight in zip(strata, weights, strict=True):
            of_stratum, each = influence(stratum.x, stratum.y)
            values = values + weight * of_stratum
            bias = bias + weight * _bias(each, stratum.y)
            parts.append(weight * each / len(each))
        return cls(values, bias, tuple(parts), sum(stratum.n_prompts for stratum in strata))

    def teachers(self, order: np.ndarray) -> "Stratified":
        """The columns of teachers, int [K], in this order."""
        parts = tuple(part[:, order] for part in self.parts)
        return dataclasses.replace(
            self, values=self.values[order], bias=self.bias[order], parts=parts
        )

    def turned(self, metric: Metric) -> "Stratified":
        """Turned so that lower is better."""
        return dataclasses.replace(
            self,
            values=metric.order(self.values),
            bias=metric.order(self.bias),
            parts=tuple(map(metric.order, self.parts)),
        )

    @property
    def _unbiased(self) -> np.ndarray:
        unbiased: np.ndarray = self.values - self.bias
        return unbiased

    def interval(self, confidence: float, seed: int) -> Interval:
        """Intervals of the values: each end is the farther one of `inference.interval` and of
        Student's t with Satterthwaite's degrees of freedom, because prompts have a long upper tail
        that few of them do not show.
        """
        variance, centre = _variance(self.parts), self._unbiased
        error = np.sqrt(variance.sum(0))
        found = interval_of(centre, error, _studentised(self._grouped(seed), seed), confidence)
        reach = special.stdtrit(_freedom(variance, self.parts), (1 + confidence) / 2) * error
        low, high = np.minimum(found.low, centre - reach), np.maximum(found.high, centre + reach)
        return Interval(low, high, error)

    def places(self, confidence: float, seed: int) -> Places:
        """Bounds on the places, as `inference.place_bounds` has them."""
        a, b = np.triu_indices(len(self.values), 1)
        groups = self._grouped(seed)
        drawn, error = np.empty((DRAWS, len(a)), np.float32), np.empty(len(a))
        for start in range(0, len(a), PAIRS):
            some = slice(start, start + PAIRS)
            drawn[:, some] = _studentised(_apart(groups, a[some], b[some]), seed)
            error[some] = np.sqrt(_variance(_apart(self.parts, a[some], b[some])).sum(0))
        return places_of(self._unbiased, error, drawn, confidence)

    def chances(self, seed: int) -> Chances:
        """How likely orders are, as `inference.chances` has them."""
        n_teachers = len(self.values)
        own = [part - part.mean(1, keepdims=True) for part in self.parts]
        of_strata = [len(part) / (len(part) - 1) * part.T @ part for part in own]
        noise = np.array([np.trace(one) for one in of_strata]) / (n_teachers - 1)
        freedom = float(_freedom(noise[:, None], self.parts)[0])
        rng = np.random.default_rng([seed, self.n_prompts, n_teachers])
        return chances_of(self._unbiased, noise.sum(), sum(of_strata), freedom, rng)

    def _grouped(self, seed: int) -> Parts:
        """The parts, or of those with many prompts sums over random groups of them."""
        n = sum(map(len, self.parts))
        if n <= GROUPS:
            return self.parts
        return tuple(
            _in_groups(part, max(FEWEST_GROUPS, GROUPS * len(part) // n), seed)
            for part in self.parts
        )


def _bias(each: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of ratios of means, [T], to the first order, of what prompts add to them and y, [P, T]
    (W. Cochran, 1977, section 6.8).
    """
    n = len(y)
    if n < 2:
        return np.zeros(y.shape[1])
    covariance = (each * (y - y.mean(0))).sum(0) / (n - 1)
    bias: np.ndarray = -covariance / n / y.mean(0)
    return bias


def _apart(parts: Parts, a: np.ndarray, b: np.ndarray) -> Parts:
    """Of the differences of pairs of teachers a, b [K]."""
    return tuple(part[:, a] - part[:, b] for part in parts)


def _variance(parts: Parts) -> np.ndarray:
    """What each stratum adds to the variances of values to which prompts add `parts`, [S, K]."""
    return np.stack([len(part) / (len(part) - 1) * (part**2).sum(0) for part in parts])


def _freedom(variance: np.ndarray, parts: Parts) -> np.ndarray:
    """Degrees of freedom [K] of sums of variances [S, K] of strata (F. Satterthwaite, An
    approximate distribution of estimates of variance components, Biometrics Bulletin 2, 1946).
    """
    own = np.array([len(part) - 1 for part in parts])[:, None]
    least = (variance**2 / own).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom: np.ndarray = np.where(least > 0, variance.sum(0) ** 2 / least, own.sum())
    return freedom


def _studentised(parts: Parts, seed: int) -> np.ndarray:
    """Student's t of the sums of `parts`, whose own are 0, in draws of prompts within strata,
    float32 [B, K].
    """
    size = np.sqrt(np.sum([(part**2).sum(0) for part in parts], axis=0))
    mean = np.zeros((DRAWS, len(size)), np.float32)
    variance = np.zeros_like(mean)
    for nth, part in enumerate(parts):
        n = len(part)
        unit = (part / np.where(size > 0, size, 1.0)).astype(np.float32)
        # other draws for each stratum: those of strata of one size would be the same
        counts = resamples(n, seed * (len(parts) + 1) + nth) * np.float32(n)
        total = counts @ unit
        mean += total
        variance += np.float32(n / (n - 1)) * (counts @ unit**2 - total**2 / np.float32(n))
    return t_of_draws(mean, variance)


def _in_groups(part: np.ndarray, n_groups: int, seed: int) -> np.ndarray:
    """Sums [n_groups, T] over random groups of rows; the rows where they are no more."""
    n = len(part)
    if n <= n_groups:
        return part
    group = np.random.default_rng([seed, n]).permutation(n) % n_groups
    return np.stack([np.bincount(group, column, n_groups) for column in part.T], 1)


def bonferroni(confidence: float, n: int) -> float:
    """The confidence of each of n statements all of which are to hold at `confidence`."""
    return 1 - (1 - confidence) / max(1, n)
