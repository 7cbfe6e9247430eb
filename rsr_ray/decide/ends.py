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

    @classmethod
    def of(cls, metric: Metric, rows: np.ndarray) -> "Ends":
        """Of such rows, of a metric that looks at no other answer."""
        found = cls(metric)
        found.rows = rows
        found._turned = metric.order(metric.values({n: rows[n] for n in rows.dtype.names or ()}))
        return found

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

    def exchange(self, prompts: np.ndarray, come: "Ends") -> bool:
        """Have what has come of some prompts, by hash, in place of what was theirs; whether these
        are then those of all rows: one that is there no more may have kept others out.
        """
        rows = np.concatenate([self.rows[~np.isin(self.rows["prompt_hash"], prompts)], come.rows])
        rows = rows[np.lexsort([rows["row_hash"], rows["prompt_hash"]])]
        found = Ends.of(self.metric, rows)
        some = _ends(rows, found._turned)
        before, now = _lasts(self.rows, self._turned), _lasts(rows[some], found._turned[some])
        self.rows, self._turned = rows[some], found._turned[some]
        return all(now[key] <= last for key, last in before.items() if key in now) and (
            before.keys() <= now.keys()
        )


def _lasts(rows: np.ndarray, turned: np.ndarray) -> dict[tuple[int, int], tuple[float, ...]]:
    """Of each teacher the last that is among the best, by (teacher, 1), and the worst, (teacher,
    -1); the worst turned round.
    """
    hashes = rows["prompt_hash"].tolist(), rows["row_hash"].tolist()
    keys = zip(turned.tolist(), *hashes, strict=True)
    each: dict[int, list[tuple[float, ...]]] = {}
    for teacher, key in zip(rows["teacher"].tolist(), keys, strict=True):
        each.setdefault(teacher, []).append(key)
    found = {}
    for teacher, some in each.items():
        some.sort()
        found[teacher, 1] = some[:SHOWN][-1]
        found[teacher, -1] = tuple(-value for value in some[-SHOWN:][0])
    return found


def _ends(rows: np.ndarray, turned: np.ndarray) -> np.ndarray:
    """The places of the first and the last rows of each teacher, by these values, int [K]."""
    order = np.argsort(turned, kind="stable")
    order = order[np.argsort(rows["teacher"][order].astype(np.uint16), kind="stable")]
    teacher = rows["teacher"][order]
    _, start, n = np.unique(teacher, return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(start, n)
    kept: np.ndarray = order[(place < SHOWN) | (place >= np.repeat(n, n) - SHOWN)]
    return kept
