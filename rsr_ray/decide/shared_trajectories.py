"""shared_trajectories: trajectories that both sides scored, and whether their scores differ.

Legend: N trajectories of A, S of them shared with B.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.decide.scored import Scored
from rsr_ray.metrics import Metric


@dataclass(frozen=True)
class SharedTrajectories:
    """How many trajectories both sides have, by teacher and trajectory_id.

    All from `differ` on is None for two students.
    """

    both: int
    only_a: int
    only_b: int
    differ: int | None = None  # not bitwise the same in all columns of the metric
    largest: float | None = None  # relative difference, 0 if none differs
    column: str | None = None  # that has it; None if none differs
    where: str | None = None  # teacher and trajectory_id that have it


def match_trajectories(
    a: Scored, b: Scored, metric: Metric, *, same_student: bool
) -> SharedTrajectories:
    """Count the trajectories of both sides, and those of one student whose scores differ."""
    keys_a = _keys(a)
    keys_b = _keys(b)
    in_b = pc.index_in(keys_a, keys_b).fill_null(-1).to_numpy()  # int [N]: row of B, or -1
    rows_a = np.flatnonzero(in_b >= 0)  # int [S]
    rows_b = in_b[rows_a]  # int [S]
    n_both = len(rows_a)
    shared = SharedTrajectories(n_both, len(keys_a) - n_both, len(keys_b) - n_both)
    if not same_student:
        return shared
    differs = np.zeros(n_both, bool)
    largest, column, where = 0.0, None, None
    for name in metric.columns:
        of_a = a.columns[name][rows_a].astype(np.float64)
        of_b = b.columns[name][rows_b].astype(np.float64)
        differs |= of_a != of_b
        relative = _relative_difference(of_a, of_b)
        if n_both and relative.max() > largest:
            worst = int(relative.argmax())
            largest = float(relative[worst])
            column = name
            where = keys_a[int(rows_a[worst])].as_py().replace("\0", " ")
    return dataclasses.replace(
        shared, differ=int(differs.sum()), largest=largest, column=column, where=where
    )


def _keys(scored: Scored) -> pa.ChunkedArray:
    """Teacher and trajectory_id of each trajectory, as one string."""
    teachers = pa.array(scored.teachers, pa.string()).take(pa.array(scored.teacher))
    return pc.binary_join_element_wise(teachers, scored.rows["trajectory_id"], "\0")


def _relative_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Differences over the larger of the two, 0 for two zeros; all [S]."""
    larger = np.maximum(np.maximum(np.abs(a), np.abs(b)), np.finfo(float).tiny)
    return np.asarray(np.abs(a - b) / larger)
