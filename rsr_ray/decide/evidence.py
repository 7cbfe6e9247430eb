"""evidence: metrics, aligned with the accuracy of the student trained on each teacher.

Both come from one table, or the accuracies from a table and the values from a store.

Legend: n teachers of a student.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from rsr_ray.decide.accuracies import (
    KEYS,
    Trained,
    accuracies_of,
    first_text,
    numbers,
    read_table,
)
from rsr_ray.errors import UserError, counted
from rsr_ray.metrics import REGISTRY

if TYPE_CHECKING:
    from rsr_ray.decide.scored import Scored


@dataclass(frozen=True, kw_only=True)
class StudentColumns:
    """The teachers of one student, in any order: no correlation depends on it."""

    teachers: tuple[str, ...]
    accuracy: np.ndarray  # float64 [n]: of the student after training on the teacher
    metrics: Mapping[str, np.ndarray]  # float64 [n] each; NaN if there is no value
    scored: "Scored | None" = None  # what they were made of, where a store has it

    def only(self, keep: np.ndarray) -> "StudentColumns":
        """With the teachers of a mask, bool [n]."""
        teachers = tuple(name for name, kept in zip(self.teachers, keep, strict=True) if kept)
        return replace(
            self,
            teachers=teachers,
            accuracy=self.accuracy[keep],
            metrics={name: values[keep] for name, values in self.metrics.items()},
        )

    def with_cell(self, teacher: str, column: str, value: float) -> "StudentColumns":
        """With another value in one cell."""
        is_there = np.array(self.teachers) == teacher
        if column == "accuracy":
            return replace(self, accuracy=np.where(is_there, value, self.accuracy))
        changed = np.where(is_there, value, self.metrics[column])
        return replace(self, metrics={**self.metrics, column: changed})


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is correlated, and what was left out of it."""

    students: dict[str, StudentColumns]
    left_out: list[str]  # a sentence each
    notes: list[str] = field(default_factory=list)  # which prompts the values are of, one each

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that any student has, in the order they came."""
        names = (name for student in self.students.values() for name in student.metrics)
        return list(dict.fromkeys(names))


def from_table(uri: str, endpoint: str | None) -> Evidence:
    """The students of a table with metrics. Raises UserError."""
    table = read_table(uri, endpoint)
    left_out = []
    columns = {}
    for name in [name for name in table.column_names if name not in KEYS]:
        column = numbers(table, name)
        if column is not None:
            columns[name] = column
        elif name in REGISTRY:
            raise UserError(f"{uri}: column {name}: {first_text(table, name)} is not a number")
        else:
            left_out.append(f"column {name}: not numbers")
    if not columns:
        raise UserError(f"{uri}: no metric column besides {', '.join(KEYS)}")
    accuracies = accuracies_of(table, uri)
    students = {
        student: StudentColumns(
            teachers=tuple(trained),
            accuracy=_accuracy(trained.values()),
            metrics={name: values[_rows(trained.values())] for name, values in columns.items()},
        )
        for student, trained in accuracies.of_students.items()
    }
    return Evidence(students=students, left_out=left_out + accuracies.left_out)


def from_store(store_uri: str, accuracies_uri: str, endpoint: str | None) -> Evidence:
    """The students of a table of accuracies, with every metric that the store has scores for.

    Raises UserError.
    """
    accuracies = accuracies_of(read_table(accuracies_uri, endpoint), accuracies_uri)
    left_out = list(accuracies.left_out)
    students = {}
    notes = []
    for student, trained in accuracies.of_students.items():
        scored = find_scored(store_uri, student, endpoint)
        if scored is None:
            left_out.append(f"student {student}: the store has no scores for it")
            continue
        values, prompts = teacher_values(scored)
        notes.append(f"student {student}: values on {prompts}")
        left_out += [
            f"student {student}: the store has no scores of teacher {teacher}"
            for teacher in trained
            if teacher not in values
        ]
        students[student] = replace(_with_values(trained, values), scored=scored)
    if not students:
        raise UserError(
            f"store {store_uri}: no scores for any student in {accuracies_uri}: "
            f"{', '.join(accuracies.of_students)}"
        )
    return Evidence(students=students, left_out=left_out, notes=notes)


def find_scored(store_uri: str, student: str, endpoint: str | None) -> "Scored | None":
    """The scores of a student; None if the store does not have it. Raises UserError."""
    from rsr_ray.decide.loading import load_scored
    from rsr_ray.store.store import Store

    if student not in Store.students(store_uri, endpoint):
        return None
    return load_scored(Store(store_uri, student, endpoint))


def teacher_values(scored: "Scored") -> tuple[dict[str, dict[str, float]], str]:
    """Every metric of the registry by teacher, and which prompts the values are of.

    As in `rank_teachers`, those are the prompts that all teachers answered, or else all prompts. A
    metric that some of the store's rows lack is left out.
    """
    values: dict[str, dict[str, float]] = {name: {} for name in scored.teachers}
    prompts = ""
    for name, metric in REGISTRY.items():
        if not scored.has(metric):
            continue
        compared, is_matched = scored.matrices(metric).compared()
        for teacher, value in zip(scored.teachers, compared.values().tolist(), strict=True):
            values[teacher][name] = value
        prompts = _prompts(compared.n_prompts, len(scored.teachers), is_matched)
    return values, "; ".join([prompts, *scored.notes])


def _prompts(n_prompts: int, n_teachers: int, is_matched: bool) -> str:
    if is_matched:
        return (
            f"the {counted(n_prompts, 'prompt')} that all {n_teachers} teachers of "
            f"the store answered"
        )
    return f"each teacher's own prompts, because none was answered by all {n_teachers} teachers"


def _with_values(
    trained: Mapping[str, Trained], values: Mapping[str, Mapping[str, float]]
) -> StudentColumns:
    """The teachers that have both, with the metrics that any teacher of the store has."""
    teachers = tuple(teacher for teacher in trained if teacher in values)
    return StudentColumns(
        teachers=teachers,
        accuracy=_accuracy([trained[teacher] for teacher in teachers]),
        metrics={
            metric: np.array([values[teacher].get(metric, math.nan) for teacher in teachers])
            for metric in REGISTRY
            if any(metric in of_teacher for of_teacher in values.values())
        },
    )


def _accuracy(trained: Collection[Trained]) -> np.ndarray:
    return np.array([row.accuracy for row in trained], np.float64)


def _rows(trained: Collection[Trained]) -> np.ndarray:
    return np.array([row.row for row in trained], np.int64)


def set_cells(evidence: Evidence, cells: list[str]) -> Evidence:
    """With other values in some cells, each STUDENT/TEACHER/COLUMN=VALUE. Raises UserError."""
    students = dict(evidence.students)
    for cell in cells:
        path, _, text = cell.rpartition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise UserError(
                f"--set {cell}: use STUDENT/TEACHER/COLUMN=VALUE with a number as VALUE"
            )
        known = [  # names may hold slashes themselves
            (name, teacher, column)
            for name, student in students.items()
            for teacher in student.teachers
            for column in ("accuracy", *student.metrics)
            if path == f"{name}/{teacher}/{column}"
        ]
        if not known:
            raise UserError(
                f"--set {cell}: no such student, teacher or column; students: {', '.join(students)}"
            )
        name, teacher, column = known[0]
        students[name] = students[name].with_cell(teacher, column, value)
    return replace(evidence, students=students)


def without(evidence: Evidence, teachers: list[str]) -> Evidence:
    """Without some teachers. Raises UserError if no student has a teacher of that name."""
    known = dict.fromkeys(
        teacher for student in evidence.students.values() for teacher in student.teachers
    )
    if unknown := [name for name in teachers if name not in known]:
        raise UserError(f"--without {unknown[0]}: no such teacher; teachers: {', '.join(known)}")
    kept = {
        name: student.only(np.array([t not in teachers for t in student.teachers], bool))
        for name, student in evidence.students.items()
    }
    return replace(evidence, students=kept)
