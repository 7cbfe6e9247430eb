"""What the first rows of shards show: their shape, and that mapped columns are there."""

import difflib
import itertools
from collections.abc import Mapping
from typing import Any

from rsr_ray.corpus.reading import Reading, columns_of, is_pattern
from rsr_ray.corpus.row_faults import Row, Unreadable
from rsr_ray.corpus.rows import iter_rows
from rsr_ray.corpus.shapes import (
    mapped,
    shape_of,
    value_at,
)
from rsr_ray.errors import UserError
from rsr_ray.files.objects import InputObject

SAMPLED_SHARDS, SAMPLED_ROWS = 16, 256  # in which a mapped column is looked for


def check_mapped(
    objects: list[InputObject],
    endpoint: str | None,
    columns: Mapping[str, str],
    strata: tuple[str, ...],
) -> None:
    """Raise UserError for a mapped column, or one of --stratum, that is in no first row of shards
    all over the corpus.
    """
    missing = {f"--columns {name}={path}": path for name, path in columns.items()}
    missing |= {f"--stratum {path}": path for path in strata}
    there: set[Any] = set()
    for obj in objects[:: max(1, len(objects) // SAMPLED_SHARDS)]:
        if not missing:
            return
        for row in itertools.islice(iter_rows(obj, endpoint, columns, None), SAMPLED_ROWS):
            if isinstance(row, Unreadable):
                continue
            there |= row.keys()
            missing = {said: path for said, path in missing.items() if not _is_there(row, path)}
            if not missing:
                return
    if missing and there:
        said, path = next(iter(missing.items()))
        known = sorted(map(str, there))
        near = difflib.get_close_matches(path, known, 3, 0.5)
        near_names = f"did you mean {' or '.join(near)}?"
        hint = near_names if near else f"columns: {', '.join(known)[:300]}"
        raise UserError(f"{said}: none of the first rows has this column; {hint}")


def _is_there(row: Row, path: str) -> bool:
    if is_pattern(path):
        return bool(columns_of([path], row))
    return path in row or value_at(row, path) is not None


def check_readable(
    objects: list[InputObject],
    endpoint: str | None,
    columns: Mapping[str, str],
    strata: tuple[str, ...] = (),
) -> str:
    """The shape of the first row of the first shard that begins with a conversation.

    Raises UserError if none does, or where a mapped column, or one of --stratum, is not there.
    """
    check_mapped(objects, endpoint, columns, strata)
    problem = ""
    for obj in objects:
        first = next(iter_rows(obj, endpoint, columns), Unreadable("the shard has no rows"))
        if isinstance(first, Unreadable):
            problem = problem or f"{obj.uri}: {first.detail}"
        elif shape := _shape_of(first, columns):
            return shape
        else:
            problem = problem or f"{obj.uri} has the columns {', '.join(map(str, first))[:200]}"
    wanted = (
        "messages; or conversations; or prompt and response; or instruction and output; --columns "
        "maps other names"
    )
    raise UserError(
        f"no shard of the corpus has readable trajectories: {problem}. A row needs {wanted}."
    )


def _shape_of(row: Row, columns: Mapping[str, str]) -> str | None:
    for of_answer, _ in Reading(columns=columns).each(row):
        if shape := shape_of(
            {name for name, value in mapped(row, of_answer).items() if value is not None}
        ):
            return shape
    return None
