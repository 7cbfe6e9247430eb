"""pair: the values of one metric beside the accuracies of one student, and their correlations.

Legend: n teachers of the student, T teachers of all students, R resamples.
"""

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats

FEWEST = 3  # teachers: two always correlate by +1 or -1


@dataclass(frozen=True)
class Coefficients:
    """Correlations between a metric and accuracy, or their means over students; from -1 to 1."""

    spearman: float  # of ranks; tied values share their average rank
    pearson: float  # of the values
    kendall: float  # tau-b


class Pair:
    """A metric and the accuracies of one student, with what its resamples need.

    x, y float64 [n]; `teachers` int64 [n]: the index of each among all T teachers. They are sorted
    by it, in whatever order they are given: a permutation of all teachers then moves the
    accuracies of every student alike, and the identity none.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, teachers: np.ndarray):
        order = np.argsort(teachers)
        self.x = x[order]
        self.y = y[order]
        self.teachers = teachers[order]
        self.x_order = _order(self.x)
        self.y_order = _order(self.y)

    def why_undefined(self) -> str | None:
        """Why there is no correlation; None if there is one."""
        if len(self.x) < FEWEST:
            return f"{len(self.x)} values, but {FEWEST} are needed"
        if len(set(self.x.tolist())) == 1:
            return "every teacher has the same value"
        if len(set(self.y.tolist())) == 1:
            return "every teacher has the same accuracy"
        return None

    @cached_property
    def coefficients(self) -> Coefficients:
        """Only if they are defined: see `why_undefined`."""
        return Coefficients(
            spearman=float(stats.spearmanr(self.x, self.y).statistic),
            pearson=float(stats.pearsonr(self.x, self.y).statistic),
            kendall=float(stats.kendalltau(self.x, self.y).statistic),
        )

    def spearman_of_draws(self, counts: np.ndarray) -> np.ndarray:
        """Spearman float64 [R] of teachers drawn with replacement, `counts` [R, T] times each.

        NaN if all that were drawn have the same value or the same accuracy.
        """
        counts = counts[:, self.teachers].astype(np.float64)  # [R, n]
        with np.errstate(invalid="ignore", divide="ignore"):
            a = _centred(counts @ self.x_order + 0.5, counts)
            b = _centred(counts @ self.y_order + 0.5, counts)
            of_a = (counts * a * a).sum(-1)
            of_b = (counts * b * b).sum(-1)
            spearman: np.ndarray = (counts * a * b).sum(-1) / np.sqrt(of_a * of_b)
            return spearman

    def spearman_of_orders(self, orders: np.ndarray) -> np.ndarray:
        """Spearman float64 [R] with the accuracies in other orders.

        Each row of `orders` int64 [R, T] is a permutation of the teachers.
        """
        a = stats.rankdata(self.x)
        b = stats.rankdata(self.y)
        a = a - a.mean()
        b = b - b.mean()
        permuted = b[np.argsort(orders[:, self.teachers], axis=-1)]  # [R, n]
        spearman: np.ndarray = permuted @ a / math.sqrt(a @ a * (b @ b))
        return spearman


def _order(x: np.ndarray) -> np.ndarray:
    """float64 [n, n]: 1 if the row's value is below the column's, 1/2 if they are equal."""
    below: np.ndarray = (x[:, None] < x) + 0.5 * (x[:, None] == x)
    return below


def _centred(ranks: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Average ranks [R, n] among the teachers drawn, minus their mean over these."""
    mean = (counts * ranks).sum(-1) / counts.sum(-1)  # [R]
    centred: np.ndarray = ranks - mean[:, None]
    return centred


def spearman_in_any_order(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The lowest and highest Spearman that is possible if tied values of x, and of y, were not
    tied.

    What a table's rounding has hidden lies between. The highest is where tied values are in the
    order of the other variable, the lowest where they are in the opposite one (exchange two that
    are not, and the sum of products of ranks only moves inwards).
    """
    index = np.arange(len(x))

    def ranks(*keys: np.ndarray) -> np.ndarray:
        return np.argsort(np.lexsort(keys[::-1]))

    low = np.corrcoef(ranks(x, -y, index), ranks(y, -x, -index))[0, 1]
    high = np.corrcoef(ranks(x, y, index), ranks(y, x, index))[0, 1]
    return float(low), float(high)


def n_tied(x: np.ndarray) -> int:
    """The number of values that occur more than once."""
    return sum(n for n in Counter(x[~np.isnan(x)].tolist()).values() if n > 1)
