"""What was computed of encoded rows -> score rows, as Arrow has them."""

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.engine.sums import PartSums, Tokens
from rsr_ray.schema import SCORES, TOKENS

# by name: numerator, denominator and sign
RATIOS = {
    "mean_rank": ("rank_sum", "n_tokens", 1),
    "mean_surprisal": ("surprisal_sum", "n_tokens", 1),
    "mean_entropy": ("entropy_sum", "n_tokens", 1),
    "rsr": ("rank_sum", "surprisal_sum", 1),
    "local_naturalness": ("step_surprisal_sum", "n_steps", -1),
}


@dataclass(frozen=True)
class RowSums:
    """The sums of those rows that have scores."""

    at: np.ndarray  # int [G], their places among all rows
    by_name: dict[str, np.ndarray]  # of SCORES, each [G]
    # of each the sums of its parts, by column of SCORES: turns and segments, if wanted
    parts: dict[str, list[list[PartSums]]] = field(default_factory=dict)

    @property
    def ratios(self) -> dict[str, np.ndarray]:
        """Those that the sums give, each [G]."""
        sums = self.by_name
        return {
            name: sign * sums[a] / sums[b]
            for name, (a, b, sign) in RATIOS.items()
            if a in sums and b in sums
        }


@dataclass(frozen=True)
class Rejects:
    """Why each of some rows is rejected; None for those that are not."""

    reasons: list[str | None]
    details: list[str | None]

    @classmethod
    def of(cls, rows: pa.RecordBatch) -> Self:
        """Those that the rows come with."""
        return cls(rows["reject_reason"].to_pylist(), rows["reject_detail"].to_pylist())

    def add(self, at: int, reason: str, detail: str) -> None:
        self.reasons[at] = reason
        self.details[at] = detail


def score_table(
    rows: pa.RecordBatch, sums: RowSums, rejects: Rejects, fingerprint: str
) -> pa.RecordBatch:
    """SCORES rows: what `rows` say of themselves, and the sums and their ratios, null where a row
    has none.
    """
    columns: dict[str, pa.Array] = {
        name: rows[name] for name in rows.schema.names if name in SCORES.names
    }
    for name, values in (sums.by_name | sums.ratios).items():
        columns[name] = _spread(values, sums.at, rows.num_rows)
    for name, of_rows in sums.parts.items():
        columns[name] = spread_parts(of_rows, sums.at, name, rows.num_rows)
    is_scored = pa.array([reason is None for reason in rejects.reasons])
    columns["truncated"] = pc.if_else(is_scored, rows["truncated"], None)
    columns["reject_reason"] = pa.array(rejects.reasons, pa.string())
    columns["reject_detail"] = pa.array(rejects.details, pa.string())
    columns["fingerprint"] = pa.repeat(fingerprint, rows.num_rows)
    for column in SCORES:
        if column.name not in columns:
            columns[column.name] = pa.nulls(rows.num_rows, column.type)
    return pa.RecordBatch.from_arrays([columns[name] for name in SCORES.names], schema=SCORES)


def _spread(values: np.ndarray, at: np.ndarray, n_rows: int) -> pa.Array:
    """Values [G] at their places among all rows; null elsewhere."""
    whole = np.zeros(n_rows, values.dtype)
    missing = np.ones(n_rows, bool)
    whole[at] = values
    missing[at] = False
    return pa.array(whole, mask=missing)


def spread_parts(of_rows: list[list[PartSums]], at: np.ndarray, name: str, n_rows: int) -> pa.Array:
    """The parts of some rows at their places among all rows, as column `name` of SCORES."""
    parts: list[Any] = [None] * n_rows
    for place, of_row in zip(at, of_rows, strict=True):
        parts[place] = of_row
    return pa.array(parts, SCORES.field(name).type)


def tokens_of_table(tokens: pa.Table) -> list[Tokens]:
    """What TOKENS rows hold, of each row."""
    whole, lengths = whole_tokens(tokens)
    return whole.split(lengths) if len(lengths) else []


def whole_tokens(tokens: pa.Table) -> tuple[Tokens, np.ndarray]:
    """What TOKENS rows hold, one row behind the other, and how many tokens each has."""
    whole = Tokens(*(tokens[name].combine_chunks().flatten().to_numpy() for name in Tokens._fields))
    lengths = pc.list_value_length(tokens["rank"]).to_numpy().astype(np.int64)
    return whole._replace(rank=whole.rank.astype(np.int64)), lengths


def token_table(rows: pa.RecordBatch, tokens: list[Tokens]) -> pa.Table:
    """TOKENS of scored rows."""
    columns = {
        name: pa.array([getattr(row, name) for row in tokens], TOKENS.field(name).type)
        for name in Tokens._fields
    }
    columns["text"] = rows["token_text"]
    return pa.table(
        [columns[name] if name in columns else rows[name] for name in TOKENS.names], schema=TOKENS
    )
