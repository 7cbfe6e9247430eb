"""table_sums: what the teachers table is made of, from buckets of prompts with all their rows.

Legend: N rows of a bucket, T teachers.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rsr_ray.decide.buckets import Bucket, Buckets
from rsr_ray.run.medians import ValueFiles
from rsr_ray.run.row_sums import COLUMNS, NUMBERS, summed
from rsr_ray.schema import SCORES
from rsr_ray.store.score_files import ScoreFile
from rsr_ray.store.store import Store

Totals = dict[str, Any]  # of a teacher: what is summed, by name
# of those of the table, what a bucket has as numbers of rows
SUMMED = [n for n in COLUMNS if SCORES.field(n).type in NUMBERS and n != "source_row"]


class TableSums:
    """The sums of some prompts."""

    def __init__(self, n_teachers: int):
        self.n_teachers = n_teachers
        self.sums: dict[str, np.ndarray] = {}  # int64 [T] each
        self.rejects: dict[str, np.ndarray] = {}  # by reason, int64 [T]

    def add(self, bucket: Bucket, reasons: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Add a bucket's rows; the teacher and the rsr of each that counts. `reasons` are what
        reject_reason numbers.
        """
        bucket = bucket.where(bucket.rows["teacher"] >= 0)
        rows, teacher = bucket.columns(), bucket.rows["teacher"]
        rejected = rows["reject_reason"] >= 0
        is_first = bucket.is_first
        found = summed(rows, is_first & ~rejected, is_first & rejected, ~is_first)
        counts = found["is_scored"] == 1
        for name, values in found.items():
            np.add.at(self._of(self.sums, name), teacher, values)
        is_reject = is_first & rejected
        for r in np.unique(rows["reject_reason"][is_reject]).tolist():
            some = is_reject & (rows["reject_reason"] == r)
            self._of(self.rejects, reasons[r])[:] += self._count(teacher[some])
        pairs = np.unique(np.stack([bucket.prompt, teacher])[:, counts], axis=1)
        self._of(self.sums, "n_prompts")[:] += self._count(pairs[1])
        return teacher[counts], rows["rsr"][counts]

    def _of(self, sums: dict[str, np.ndarray], name: str) -> np.ndarray:
        return sums.setdefault(name, np.zeros(self.n_teachers, np.int64))

    def _count(self, teacher: np.ndarray) -> np.ndarray:
        return np.bincount(teacher, minlength=self.n_teachers)

    def exchange(self, gone: "TableSums", come: "TableSums") -> None:
        """Have the sums of some prompts in place of those that they had before."""
        for own, less, more in (
            (self.sums, gone.sums, come.sums),
            (self.rejects, gone.rejects, come.rejects),
        ):
            for name in own.keys() | more.keys():
                self._of(own, name)[:] += more.get(name, 0) - less.get(name, 0)

    def totals(self, names: list[str], medians: list[float | None]) -> list[Totals]:
        """Of each teacher."""
        found = []
        for t, name in enumerate(names):
            rejects = {reason: int(n[t]) for reason, n in self.rejects.items() if n[t]}
            told: Totals = {"teacher": name, "rsr_median": medians[t]}
            told |= {"rejects": {"values": [*rejects], "counts": [*rejects.values()]}}
            found.append(told | {name: int(total[t]) for name, total in self.sums.items()})
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """As they are kept."""
        both = {"sums": self.sums, "rejects": self.rejects}
        return {f"{kind}/{name}": n for kind, some in both.items() for name, n in some.items()}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray], n_teachers: int) -> "TableSums":
        found = cls(n_teachers)
        for path, values in arrays.items():
            kind, _, name = path.partition("/")
            {"sums": found.sums, "rejects": found.rejects}[kind][name] = values.copy()
        return found


def add_up_in_buckets(store: Store, fingerprint: str, files: list[ScoreFile]) -> list[Totals]:
    """`add_up` of more rows than should be in memory at once."""
    with Buckets(store, fingerprint, SUMMED, rejects=True) as buckets, ValueFiles() as values:
        buckets.fill(files)
        names = buckets.names["teacher"]
        sums = TableSums(len(names))
        for bucket in buckets:
            values.add(*sums.add(bucket, buckets.names["reject_reason"]))
        sums.sums["is_repeated_id"] = buckets.n_repeated_ids
        return sums.totals(names, [values.median(t) for t in range(len(names))])
