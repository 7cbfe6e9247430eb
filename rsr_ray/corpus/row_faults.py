"""What goes wrong with one row is that row's reject, and never the end of a run.

Reading a row's values, its canonical form and its encoding each run inside `row_boundary`. Fetching
a shard from the store does not: what fails there is the store's fault, and ends the task that
fetches.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rsr_ray.credentials import scrub
from rsr_ray.errors import BadRow, RunError, UserError

# Not a row's own: the run is broken, or somebody ends it.
PASS = (UserError, RunError, KeyboardInterrupt, SystemExit, GeneratorExit)
MAX_DEPTH = 100  # levels of lists and mappings in the tools of a row, or in the arguments of a call
# Of a row's turns and tools as JSON; 256 of them fill what Arrow holds in a list of texts.
MAX_CHARS = 8 << 20


@contextmanager
def row_boundary(stage: str) -> Iterator[None]:
    """Whatever is raised inside, which works on one row and fetches nothing, leaves as BadRow.

    A panic in a library's Rust code derives from BaseException alone, and a template that includes
    a file raises an OSError: neither says anything of the run. `PASS` is what does.
    """
    try:
        yield
    except (BadRow, *PASS):
        raise
    except BaseException as e:
        raise BadRow("row_error", f"{stage}: {one_line(e)}") from e


@dataclass(frozen=True)
class Unreadable:
    """A broken line in a row's place, or (`shard`) the place from which nothing can be read."""

    detail: str
    shard: bool = False
    reason: str = "unreadable_row"  # of one row


Row = dict[str, Any] | Unreadable


def one_line(e: BaseException) -> str:
    """An exception's class and what it says, in one line of at most 300 characters."""
    try:
        said = str(e)[:2000]
    except Exception:
        said = "(no printable message)"
    return scrub(" ".join(f"{type(e).__name__}: {said}".split()))[:300]


def rows_of(batch: pa.RecordBatch) -> list[dict[str, Any] | BadRow]:
    """The rows of a batch of Arrow as Python values; BadRow where Python cannot hold a value."""
    try:
        rows: list[dict[str, Any] | BadRow] = batch.to_pylist()
        return rows
    except Exception:  # a date beyond the year 9999, text that is not UTF-8: one value is enough
        return [_row_of(batch.slice(i, 1)) for i in range(batch.num_rows)]


def _row_of(batch: pa.RecordBatch) -> dict[str, Any] | BadRow:
    row = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            with row_boundary(f"the column {name}"):
                row[name] = column[0].as_py()
        except BadRow as e:
            return e
    return row


def check_json(value: Any, what: str) -> None:
    """Raise BadRow unless a value is made of what JSON has, no deeper than `MAX_DEPTH`.

    Parquet holds dates, decimals and bytes as well. No text is made of them here: which one the
    trajectory was made with is not known. Depth is counted, as what Python's own limit allows
    depends on where it is reached.
    """
    left = [(value, "", 0)]
    while left:
        found, where, depth = left.pop()
        if depth > MAX_DEPTH:
            raise BadRow("tool_calls", f"{what}: nested deeper than {MAX_DEPTH} levels")
        if type(found) is dict:
            if wrong := next((key for key in found if type(key) is not str), None):
                kind = type(wrong).__name__
                detail = f"{what}{where}: a key of type {kind}, which JSON cannot represent"
                raise BadRow("tool_calls", detail)
            left += [(one, f"{where}.{key:.40}", depth + 1) for key, one in found.items()]
        elif type(found) is list:
            left += [(one, f"{where}[{i}]", depth + 1) for i, one in enumerate(found)]
        elif found is not None and type(found) not in (str, int, float, bool):
            raise BadRow(
                "tool_calls",
                f"{what}{where[:120]}: a value of type {type(found).__name__}, which JSON cannot "
                "represent; store it as text",
            )


def check_size(messages: str, tools: str | None) -> None:
    """Raise BadRow where a row is larger than any that can be scored."""
    n = len(messages) + len(tools or "")
    if n > MAX_CHARS:
        raise BadRow(
            "row_error",
            f"the row has {n:,} characters as JSON, more than the limit of {MAX_CHARS:,}",
        )
