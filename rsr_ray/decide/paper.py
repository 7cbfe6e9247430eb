"""paper: why the correlations that arXiv 2601.14249 prints differ from those of its own table.

What its rounding and the accuracy that it prints twice account for is computed here; what they do
not is said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rsr_ray.decide.correlation import MetricCorrelation
from rsr_ray.decide.evidence import Evidence, StudentColumns
from rsr_ray.decide.json_values import known
from rsr_ray.decide.published import PUBLISHED, PUBLISHED_RSR, TWICE, agrees
from rsr_ray.decide.readings import (
    Readings,
    Tie,
    has_metric,
    mean_spearman,
    spearman,
)


@dataclass(frozen=True, kw_only=True)
class BestReading:
    """The reading of the table that gives most of the printed values."""

    n_reproduced: int  # printed values that it gives
    n_printed: int  # values that the paper prints of the metrics in the table
    n_tried: int  # readings
    n_as_good: int  # other readings that give as many
    takes_second: bool  # of the accuracy that is printed as two numbers
    ties: list[Tie]

    def to_json(self) -> dict[str, Any]:
        return {
            "reproduces": self.n_reproduced,
            "of": self.n_printed,
            "tried": self.n_tried,
            "as_good": self.n_as_good,
            "second_reading": self.takes_second,
            "ties": [asdict(tie) for tie in self.ties],
        }


@dataclass(frozen=True)
class RsrOfStudent:
    """Spearman of rsr with the accuracies of one student; NaN if a teacher has no rsr."""

    printed: float  # without its sign
    here: float  # from the table as it is
    best_order: float  # by the best reading

    def to_json(self) -> dict[str, float | None]:
        return {name: known(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A metric's |mean over students of Spearman|, read in three ways and as printed."""

    metric: str
    here: float  # from the table as it is
    with_second: float  # with the second accuracy; NaN if its student then has no other
    with_second_of_student: float  # the signed Spearman of the student with that accuracy
    best_order: float | None  # by the best reading; None if none was tried
    printed: float | None
    reason: str | None  # why it is printed so; None if nothing is

    def to_json(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "here": self.here,
            "second_reading": known(self.with_second),
            "second_reading_of_student": known(self.with_second_of_student),
            "best_order": self.best_order,
            "printed": self.printed,
            "reason": self.reason,
        }


@dataclass(frozen=True, kw_only=True)
class PaperComparison:
    """What the accuracy that the paper prints as two numbers changes, and if the table is the
    paper's whole one, what explains the printed values.
    """

    student: str
    teacher: str
    accuracy: float  # the first of the two, as the table has it
    second_accuracy: float
    best: BestReading | None  # None if the table is another one, or has too many ties
    rsr_of_students: dict[str, RsrOfStudent] | None  # None without `best`, or without rsr
    rows: list[PaperRow]

    def to_json(self) -> dict[str, Any]:
        rsr = self.rsr_of_students
        return {
            "student": self.student,
            "teacher": self.teacher,
            "accuracy": self.accuracy,
            "second_reading": self.second_accuracy,
            "order": self.best and self.best.to_json(),
            "rsr_of_students": rsr and {name: of.to_json() for name, of in rsr.items()},
            "rows": [row.to_json() for row in self.rows],
        }


def compare_with_paper(
    evidence: Evidence, metrics: Sequence[MetricCorrelation]
) -> PaperComparison | None:
    """None if the table lacks the accuracy that the paper prints as two numbers.

    A row for each of `metrics` that has a value for every student and teacher.
    """
    if not _has_first(evidence.students):
        return None
    readings = Readings.of(evidence.students)
    return PaperComparison(
        student=TWICE.student,
        teacher=TWICE.teacher,
        accuracy=TWICE.first,
        second_accuracy=TWICE.second,
        best=_best(readings),
        rsr_of_students=_rsr_of_students(readings),
        rows=[
            _row(found.metric, readings)
            for found in metrics
            if found.n_students == len(evidence.students)
            and _is_complete(evidence.students, found.metric)
        ],
    )


def _has_first(students: Mapping[str, StudentColumns]) -> bool:
    student = students.get(TWICE.student)
    if student is None or TWICE.teacher not in student.teachers:
        return False
    return bool(student.accuracy[student.teachers.index(TWICE.teacher)] == TWICE.first)


def _is_complete(students: Mapping[str, StudentColumns], metric: str) -> bool:
    return not any(np.isnan(student.metrics[metric]).any() for student in students.values())


def _best(readings: Readings) -> BestReading | None:
    best = readings.best
    if best is None:
        return None
    n_reproduced = [reading.n_reproduced for reading in readings.tried]
    return BestReading(
        n_reproduced=best.n_reproduced,
        n_printed=len(best.beside_printed),
        n_tried=len(readings.tried),
        n_as_good=n_reproduced.count(best.n_reproduced) - 1,
        takes_second=best.takes_second,
        ties=best.ties,
    )


def _rsr_of_students(readings: Readings) -> dict[str, RsrOfStudent] | None:
    best = readings.best
    if best is None or not has_metric(best.students, "rsr"):
        return None
    return {
        name: RsrOfStudent(
            printed=printed,
            here=spearman(readings.given[name], "rsr"),
            best_order=spearman(best.students[name], "rsr"),
        )
        for name, printed in PUBLISHED_RSR.items()
    }


def _row(metric: str, readings: Readings) -> PaperRow:
    here = abs(mean_spearman(readings.given, metric))
    with_second = abs(mean_spearman(readings.second, metric))
    printed = PUBLISHED.get(metric) if readings.is_whole else None
    reason = None
    if printed is not None:
        reason = _simplest_reason(printed, here, with_second)
        reason = reason or _reason_of_order(printed, metric, readings)
    return PaperRow(
        metric=metric,
        here=here,
        with_second=with_second,
        with_second_of_student=spearman(readings.second[TWICE.student], metric),
        best_order=readings.best.value(metric) if readings.best else None,
        printed=printed,
        reason=reason,
    )


def _simplest_reason(printed: float, here: float, with_second: float) -> str | None:
    """Without an order of ties; None if it takes one."""
    if agrees(here, printed):
        return "agrees"
    if agrees(with_second, printed):
        return f"accuracy {TWICE.second}"
    return None


def _reason_of_order(printed: float, metric: str, readings: Readings) -> str:
    """Which order of ties gives the printed value, or by how much none does."""
    best = readings.best
    if best is None:
        return "not explained: too many ties to try every order"
    if agrees(best.value(metric), printed):
        accuracy = f"accuracy {TWICE.second}, " if best.takes_second else ""
        return f"{accuracy}ties in the order below"
    values = [reading.value(metric) for reading in readings.tried]
    if any(agrees(value, printed) for value in values):
        return "ties in another order than below"
    off = min(abs(value - printed) for value in values)
    return f"not explained: off by {off:.4f} at best"
