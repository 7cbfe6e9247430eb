"""ends: the best and the worst trajectories of each teacher, of any number of them."""

import numpy as np

from rsr_ray.decide.sums import Rows
from rsr_ray.metrics import Metric

SHOWN = 3  # best and worst trajectories of a teacher


class Ends:
    """The SHOWN best and worst rows of each teacher so far; of equal ones, of earlier buckets."""

    def __init__(self, metric: Metric):
        self.metric = metric
        self.rows: np.ndarray = np.empty(0)
        self._turned = np.empty(0)

    @property
    def values(self) -> np.ndarray:
        """Of the rows."""
        return self.metric.order(self._turned)

    def add(self, rows: np.ndarray, numbers: Rows) -> None:
        """Rows of a bucket, structured [N], and their numbers."""
        turned = self.metric.order(self.metric.values(numbers.columns, numbers.prompt))
        some = _ends(rows, turned)
        rows, turned = rows[some], turned[some]
        if len(self.rows):
            rows = np.concatenate([self.rows, rows])
            turned = np.concatenate([self._turned, turned])
            some = _ends(rows, turned)
            rows, turned = rows[some], turned[some]
        self.rows, self._turned = rows, turned


def _ends(rows: np.ndarray, turned: np.ndarray) -> np.ndarray:
    """The places of the first and the last rows of each teacher, by these values, int [K]."""
    order = np.argsort(turned, kind="stable")
    order = order[np.argsort(rows["teacher"][order].astype(np.uint16), kind="stable")]
    teacher = rows["teacher"][order]
    _, start, n = np.unique(teacher, return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(start, n)
    kept: np.ndarray = order[(place < SHOWN) | (place >= np.repeat(n, n) - SHOWN)]
    return kept
