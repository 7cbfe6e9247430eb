"""accuracies: a table of the accuracies that students reached after training on each teacher.

One row per student and teacher, with the columns `student`, `teacher` and `accuracy`, and
optionally one per metric.
"""

import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_ray.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

KEYS = ("student", "teacher", "accuracy")
ENDINGS = (".csv", ".parquet", ".json", ".jsonl")


@dataclass(frozen=True)
class Trained:
    """One row: the student after training on one teacher."""

    row: int  # of the table, from 0
    accuracy: float


@dataclass(frozen=True)
class Accuracies:
    """The rows of a table that have an accuracy."""

    of_students: dict[str, dict[str, Trained]]  # student -> teacher -> row, in the table's order
    left_out: list[str]  # a sentence each


def accuracies_of(table: "pa.Table", uri: str) -> Accuracies:
    """Raises UserError if an accuracy is not a number, a row lacks a name or one is there twice."""
    accuracy = numbers(table, "accuracy")
    if accuracy is None:
        raise UserError(f"{uri}: column accuracy: {first_text(table, 'accuracy')} is not a number")
    of_students: dict[str, dict[str, Trained]] = {}
    left_out = []
    names = zip(table["student"].to_pylist(), table["teacher"].to_pylist(), strict=True)
    for row, (student, teacher) in enumerate(names):
        if student is None or teacher is None:
            missing = "student" if student is None else "teacher"
            raise UserError(f"{uri}: row {row + 1} has no {missing}")
        teachers = of_students.setdefault(str(student), {})
        if str(teacher) in teachers:
            raise UserError(f"{uri}: student {student} and teacher {teacher} appear twice")
        if math.isnan(accuracy[row]):
            left_out.append(f"student {student}, teacher {teacher}: no accuracy")
            continue
        teachers[str(teacher)] = Trained(row, float(accuracy[row]))
    if not table.num_rows:
        raise UserError(f"{uri}: the table has no rows")
    return Accuracies(of_students, left_out)


def read_table(uri: str, endpoint: str | None) -> "pa.Table":
    """A CSV, Parquet, JSON or JSON Lines file with at least the columns `KEYS`.

    Raises UserError.
    """
    import pyarrow as pa

    from rsr_ray.files.objects import get

    if not uri.endswith(ENDINGS):
        raise UserError(f"{uri}: the name of a table must end with {', '.join(ENDINGS)}")
    try:
        data = get(uri, endpoint)
    except FileNotFoundError as e:
        raise UserError(f"{uri}: no such file") from e
    try:
        table = _parsed(uri, data)
    except (pa.ArrowException, json.JSONDecodeError, UnicodeDecodeError, AttributeError) as e:
        raise UserError(
            f"{uri}: cannot be read as the format its name says: {' '.join(str(e).split())}"
        ) from e
    _check_columns(uri, table.column_names)
    return table


def _parsed(uri: str, data: bytes) -> "pa.Table":
    """The table in a file's bytes, in the format that its name says."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    file = pa.BufferReader(data)
    if uri.endswith(".parquet"):
        return pyarrow.parquet.read_table(file)
    if uri.endswith(".csv"):
        return pyarrow.csv.read_csv(file)
    if data.lstrip().startswith(b"["):
        return pa.Table.from_pylist(json.loads(data))
    return pyarrow.json.read_json(file)


def _check_columns(uri: str, names: list[str]) -> None:
    counts = Counter(names)
    if twice := [name for name, n in counts.items() if n > 1]:
        raise UserError(f"{uri}: column {twice[0]} appears twice")
    if missing := [name for name in KEYS if name not in counts]:
        raise UserError(
            f"{uri}: missing column {', '.join(missing)}; a table needs {', '.join(KEYS)} and "
            f"metrics; its columns: {', '.join(counts)}"
        )


def numbers(table: "pa.Table", name: str) -> np.ndarray | None:
    """A column as float64 [rows], NaN if there is no value or an infinite one.

    None if the column does not hold numbers.
    """
    import pyarrow as pa

    kind = table[name].type
    if not (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    ):
        return None
    values = table[name].cast(pa.float64()).to_numpy()
    return np.where(np.isfinite(values), values, math.nan)


def first_text(table: "pa.Table", name: str) -> str:
    """The first value of a column that is not a number, and its row, for an error message."""
    values: list[Any] = table[name].to_pylist()
    for row, value in enumerate(values, 1):
        try:
            float(value if value is not None else "nan")
        except (TypeError, ValueError):
            return f"{value!r} in row {row}"
    return f"type {table[name].type}"
