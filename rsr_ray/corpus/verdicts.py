"""verdicts: what a column of the corpus says of the rows that were scored."""

from collections.abc import Collection, Iterator

from rsr_ray.corpus.pairs import ANSWERS
from rsr_ray.corpus.reading import Reading
from rsr_ray.corpus.row_faults import Row, Unreadable
from rsr_ray.corpus.rows import iter_trajectories
from rsr_ray.corpus.shapes import value_at
from rsr_ray.errors import UserError
from rsr_ray.files.objects import InputObject

TRUE = {"true", "1", "1.0", "yes", "correct"}
FALSE = {"false", "0", "0.0", "no", "incorrect", "wrong"}


def columns_read(*columns: str) -> frozenset[str]:
    """What is read of a shard to know what these columns, or paths into them, say of each answer:
    lists of answers as well, which say how many trajectories a row is.
    """
    return frozenset({*ANSWERS, *columns, *(path.partition(".")[0] for path in columns)})


def scored_rows(
    obj: InputObject,
    endpoint: str | None,
    reading: Reading,
    only: frozenset[str] | None,
    wanted: Collection[int],
) -> Iterator[tuple[int, Row]]:
    """The trajectories of a shard that were scored as these rows, each with its number.

    `only` as in `iter_rows`. Raises UserError if one of them is not there.
    """
    left = {*wanted}
    rows = enumerate(iter_trajectories(obj, endpoint, reading, only)) if left else ()
    for index, row in rows:
        if index in left and not isinstance(row, Unreadable):
            left.discard(index)
            yield index, row
            if not left:
                return
    if left:
        raise UserError(
            f"shard {obj.uri}: row {min(left)} was scored but cannot be found now: pass the "
            "--columns it was scored with"
        )


def says(row: Row, column: str, where: str) -> bool | None:
    """What a column, or a path into one, says of a row: true, false, or None for nothing.

    A list holds a verdict on each answer; that of the row's own `sample` counts. Raises UserError
    for a value that is neither true nor false.
    """
    value = value_at(row, column)
    if isinstance(value, list):
        n = row.get("sample")
        value = value[n] if type(n) is int and 0 <= n < len(value) else None
    if value is None or value == "":
        return None
    text = str(value).strip().lower()
    if text not in TRUE | FALSE:
        raise UserError(f"{where}: column {column} has {value!r:.60}; it must be true or false")
    return text in TRUE
