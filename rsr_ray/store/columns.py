"""columns: what is asked for of score rows, from what their files have."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.errors import UserError
from rsr_ray.schema import SCORES, SINCE_VERSION_3
from rsr_ray.store.beside import PARTS, Beside


def stored_columns(wanted: list[str]) -> list[str]:
    """The columns that have to be read for these."""
    return list(dict.fromkeys("segments" if "/" in name else name for name in wanted))


def as_asked(store: str, rows: pa.Table, mark: str | None, wanted: list[str]) -> pa.Table:
    """Columns of the rows of units with this mark, of which a file has `stored_columns`.

    A column `segment/name` has a sum of one segment. What an earlier version did not write and can
    be done without is null. Raises UserError for what it cannot be done without.
    """
    for missing in [column for column in stored_columns(wanted) if column not in rows.column_names]:
        if missing not in SINCE_VERSION_3:
            raise UserError(
                f"store {store}: its scores have no column {missing}, because an earlier "
                "version wrote them; score again"
            )
        field = SCORES.field(missing).remove_metadata()
        rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    for nested in (column for column in wanted if "/" in column):
        segment, of_it = nested.rsplit("/", 1)
        kept = rows["segments"]
        if not _has_segment(mark, segment):
            kept = pa.chunked_array([pa.nulls(rows.num_rows, kept.type)])
        rows = rows.append_column(nested, _of_segment(kept, segment, of_it))
    return rows.select(wanted)


def _has_segment(mark: str | None, segment: str) -> bool:
    """Whether a unit may have tokens of a segment; one that says nothing may."""
    if mark is None:
        return True
    named = Beside.of_mark(mark).segments
    return named is not None and segment in {*PARTS, *(name for name, _ in named)}


def _of_segment(segments: pa.ChunkedArray, segment: str, name: str) -> pa.Array:
    """A sum of one segment of each row: 0 without such tokens, null where none were kept."""
    rows = segments.combine_chunks()
    parts = rows.flatten()
    is_it = pc.equal(pc.struct_field(parts, "segment"), segment)
    values = pc.filter(pc.struct_field(parts, name), is_it).to_numpy()
    sums = np.zeros(len(rows), values.dtype)
    sums[pc.filter(pc.list_parent_indices(rows), is_it).to_numpy()] = values
    return pa.array(sums, mask=rows.is_null().to_numpy(zero_copy_only=False))
