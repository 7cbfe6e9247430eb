"""The rejected rows of a store, one by one and by reason."""

from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Reject:
    """The rows that are rejected for one reason."""

    n: int
    example: str  # which row, and what is wrong with it


@dataclass(frozen=True, kw_only=True)
class RejectedRow:
    """What SCORES says of a rejected row."""

    teacher: str | None
    trajectory_id: str
    source: str
    source_row: int
    reject_reason: str
    reject_detail: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def rejects_of(scores: pa.Table) -> dict[str, Reject]:
    """Rejected rows by reason."""
    rejects: dict[str, Reject] = {}
    for row in scores.filter(pc.is_valid(scores["reject_reason"])).to_pylist():
        example = (
            f"{row['trajectory_id']} ({row['source']} row {row['source_row']}): "
            f"{row['reject_detail']}"
        )
        add_reject(rejects, row["reject_reason"], Reject(1, example))
    return rejects


def add_reject(rejects: dict[str, Reject], reason: str, more: Reject) -> None:
    """Count more rows of a reason; the first example by its text stays, in whatever order."""
    before = rejects.get(reason)
    if before:
        more = Reject(before.n + more.n, min(before.example, more.example))
    rejects[reason] = more
