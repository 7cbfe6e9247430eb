"""A teacher as the TEACHERS table has it."""

from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from rsr_ray.store.records import read_as


@dataclass(frozen=True, kw_only=True)
class TeacherRow:
    """A row of TEACHERS: schema.py says what each column means, in the same order.

    None is what nothing was scored for, and a column that a table of an earlier version lacks.
    """

    teacher: str
    n_trajectories: int
    n_prompts: int
    n_rejected: int
    rejects: dict[str, int]
    n_duplicates: int
    n_repeated_ids: int | None
    n_complete: int | None
    n_incomplete: int | None
    n_truncated: int
    n_tokens: int
    mean_tokens: float | None = None
    mean_rank: float | None = None
    mean_surprisal: float | None = None
    rsr: float | None = None
    rsr_of_totals: float | None = None
    rsr_mean: float | None = None
    rsr_median: float | None = None
    rsr_std: float | None = None
    place: int | None = None
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def teacher_rows(table: pa.Table) -> list[TeacherRow]:
    """The rows of a TEACHERS table, in its order."""
    return [read_as(TeacherRow, row) for row in table.to_pylist(maps_as_pydicts="strict")]
