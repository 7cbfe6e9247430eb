"""orders: how the orders of teachers differ between strata, and whether by more than noise.

Legend: S strata, T teachers of any of them.
"""

import math
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np

from rsr_ray.decide.inference import NOTHING, influence, place_bounds
from rsr_ray.decide.json_values import known
from rsr_ray.decide.strata import Stratum
from rsr_ray.decide.stratified import bonferroni
from rsr_ray.metrics import Metric


@dataclass(frozen=True, kw_only=True)
class OrderChange:
    """Two teachers, of which one is better in some strata and the other in others.

    What is sure holds for all pairs in all strata together, at the confidence.
    """

    a: str
    b: str
    a_better: list[str]  # strata
    b_better: list[str]
    a_surely: list[str]  # of these, those where it is better by more than noise
    b_surely: list[str]
    more_than_noise: bool | None  # each is surely better somewhere; None: cannot be told


@dataclass(frozen=True)
class Orders:
    """The orders of teachers in strata."""

    strata: list[str]
    teachers: list[str]  # sorted
    values: np.ndarray  # float64 [S, T], lower is better; NaN where a teacher has no answer
    before: np.ndarray  # bool [S, T, T]: the row's teacher is surely better than the column's
    is_known: np.ndarray  # bool [S]: how sure an order is

    @classmethod
    def of(cls, strata: list[Stratum], metric: Metric, confidence: float, seed: int) -> "Orders":
        teachers = sorted({name for stratum in strata for name in stratum.scored.teachers})
        shape = len(strata), len(teachers)
        values, before = np.full(shape, math.nan), np.zeros((*shape, shape[1]), bool)
        is_known = np.array([s.why_unsure is None and len(s.scored.teachers) > 1 for s in strata])
        each_sure = bonferroni(confidence, int(is_known.sum()))
        for s, stratum in enumerate(strata):
            own = np.array([teachers.index(name) for name in stratum.scored.teachers])
            values[s, own] = metric.order(stratum.compared.values())
            if is_known[s]:
                found, each = influence(stratum.compared.x, stratum.compared.y)
                places = place_bounds(metric.order(found), metric.order(each), each_sure, seed)
                before[s][np.ix_(own, own)] = places.before
        return cls([stratum.name for stratum in strata], teachers, values, before, is_known)

    @property
    def n_shared_pairs(self) -> int:
        """Pairs of teachers that are in two strata or more."""
        is_there = (~np.isnan(self.values)).astype(int)
        return int(np.triu(is_there.T @ is_there > 1, 1).sum())

    def tau_b(self) -> list[list[float | None]]:
        """Kendall's tau-b of the orders of the teachers that two strata share, [S, S]; None where
        they share fewer than two, or all of these tie in one.
        """
        from scipy import stats  # takes long to import, and few rankings have strata

        n = len(self.strata)
        found: list[list[float | None]] = [[None] * n for _ in range(n)]
        for s, other in combinations_with_replacement(range(n), 2):
            both = ~np.isnan(self.values[[s, other]]).any(0)
            if both.sum() > 1:
                tau = stats.kendalltau(self.values[s, both], self.values[other, both]).statistic
                found[s][other] = found[other][s] = known(tau)
        return found

    def changes(self) -> list[OrderChange]:
        """The pairs of teachers that change order between strata, the surest first."""
        apart = self.values[:, :, None] - self.values[:, None, :]  # [S, T, T]
        least = NOTHING * np.nanmax(np.abs(self.values), axis=1, initial=0.0)[:, None, None]
        better = apart < -least
        pairs = np.argwhere(np.triu(better.any(0) & better.any(0).T, 1))
        changes = [self._change(a, b, better) for a, b in pairs.tolist()]
        return sorted(changes, key=_least_sure_last)

    def _change(self, a: int, b: int, better: np.ndarray) -> OrderChange:
        """Of two teachers, with which is better where, bool [S, T, T]."""
        of_a, of_b = better[:, a, b], better[:, b, a]
        sure_a, sure_b = self.before[:, a, b], self.before[:, b, a]
        can_tell = bool(self.is_known[of_a].any() and self.is_known[of_b].any())
        return OrderChange(
            a=self.teachers[a],
            b=self.teachers[b],
            a_better=self._names(of_a),
            b_better=self._names(of_b),
            a_surely=self._names(sure_a),
            b_surely=self._names(sure_b),
            more_than_noise=bool(sure_a.any() and sure_b.any()) if can_tell else None,
        )

    def _names(self, some: np.ndarray) -> list[str]:
        """The strata of a mask [S]."""
        return [self.strata[s] for s in np.flatnonzero(some)]


def _least_sure_last(change: OrderChange) -> tuple[bool, int, int]:
    """More than noise first, then by how many strata say so on the side that has fewer."""
    n_sure = min(len(change.a_surely), len(change.b_surely))
    n_better = min(len(change.a_better), len(change.b_better))
    return (not change.more_than_noise, -n_sure, -n_better)
