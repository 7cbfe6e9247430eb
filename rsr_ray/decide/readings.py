"""readings: the ways to read the table of arXiv 2601.14249.

The paper prints one of its accuracies as two numbers, and all of them rounded to a decimal, so that
some are tied that may not have been. A reading takes one of the two numbers, and puts the teachers
of each tie in an order.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats

from rsr_ray.decide.evidence import StudentColumns
from rsr_ray.decide.published import (
    N_TEACHERS,
    PUBLISHED,
    PUBLISHED_RSR,
    STUDENTS,
    TWICE,
    agrees,
)

MOST_ORDERS = 100  # of tied accuracies
STEP = 1e-6  # between the accuracies of a tie once they are in an order


@dataclass(frozen=True)
class Tie:
    """Teachers of one student with the same accuracy, in one of their orders."""

    student: str
    accuracy: float
    order: list[str]  # teachers, the highest accuracy first


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The whole table, read in one way."""

    students: Mapping[str, StudentColumns]
    takes_second: bool  # of the accuracy that is printed as two numbers
    ties: list[Tie]

    def value(self, metric: str) -> float:
        """|mean over students of Spearman|."""
        return abs(mean_spearman(self.students, metric))

    @cached_property
    def beside_printed(self) -> list[tuple[float, float]]:
        """By this reading and as printed: each metric that is there, and rsr of each student."""
        metrics = [name for name in PUBLISHED if has_metric(self.students, name)]
        pairs = [(self.value(metric), PUBLISHED[metric]) for metric in metrics]
        if "rsr" in metrics:
            pairs += [
                (abs(spearman(student, "rsr")), PUBLISHED_RSR[name])
                for name, student in self.students.items()
            ]
        return pairs

    @property
    def n_reproduced(self) -> int:
        """Printed values that it gives."""
        return sum(agrees(value, printed) for value, printed in self.beside_printed)


@dataclass(frozen=True, kw_only=True)
class Readings:
    """A table that has the accuracy printed twice, and the readings of it that were tried."""

    given: Mapping[str, StudentColumns]  # the table as it is
    second: Mapping[str, StudentColumns]  # with the second of the two numbers
    is_whole: bool  # it is the paper's whole table
    tried: list[Reading]  # none if it is not, or has too many ties

    @classmethod
    def of(cls, given: Mapping[str, StudentColumns]) -> "Readings":
        other = given[TWICE.student].with_cell(TWICE.teacher, "accuracy", TWICE.second)
        second = {**given, TWICE.student: other}
        is_whole = _is_whole(given)
        tried = []
        if is_whole:
            tried += _in_every_order(given, takes_second=False)
            tried += _in_every_order(second, takes_second=True)
        return cls(given=given, second=second, is_whole=is_whole, tried=tried)

    @property
    def best(self) -> Reading | None:
        """The first of those that give most of the printed values."""
        return max(self.tried, key=lambda reading: reading.n_reproduced, default=None)


def _is_whole(students: Mapping[str, StudentColumns]) -> bool:
    n_teachers = {len(student.teachers) for student in students.values()}
    return sorted(students) == sorted(STUDENTS) and n_teachers == {N_TEACHERS}


def _in_every_order(students: Mapping[str, StudentColumns], *, takes_second: bool) -> list[Reading]:
    """A reading for each order of all ties; none if there are more than MOST_ORDERS."""
    ties = list(_ties(students))
    if math.prod(map(len, ties)) > MOST_ORDERS:
        return []
    return [
        Reading(students=_set_apart(students, chosen), takes_second=takes_second, ties=list(chosen))
        for chosen in itertools.product(*ties)
    ]


def _ties(students: Mapping[str, StudentColumns]) -> Iterator[list[Tie]]:
    """Every tie, in each of its orders."""
    for name, student in students.items():
        for value in np.unique(student.accuracy):
            tied = [
                teacher
                for teacher, accuracy in zip(student.teachers, student.accuracy, strict=True)
                if accuracy == value
            ]
            if len(tied) > 1:
                orders = itertools.permutations(tied)
                yield [Tie(name, float(value), list(order)) for order in orders]


def _set_apart(
    students: Mapping[str, StudentColumns], ties: tuple[Tie, ...]
) -> dict[str, StudentColumns]:
    changed = dict(students)
    for tie in ties:
        for place, teacher in enumerate(tie.order):
            accuracy = tie.accuracy - STEP * place
            changed[tie.student] = changed[tie.student].with_cell(teacher, "accuracy", accuracy)
    return changed


def has_metric(students: Mapping[str, StudentColumns], metric: str) -> bool:
    """Whether every student has a column of it."""
    return all(metric in student.metrics for student in students.values())


def mean_spearman(students: Mapping[str, StudentColumns], metric: str) -> float:
    """Of the metric with accuracy: the mean of the students' signed correlations."""
    return float(np.mean([spearman(student, metric) for student in students.values()]))


def spearman(student: StudentColumns, metric: str) -> float:
    """As `scipy.stats.spearmanr` has it, without the p-value, which takes most of its time."""
    ranks = stats.rankdata([student.metrics[metric], student.accuracy], axis=1)
    with np.errstate(invalid="ignore"):  # of a constant it is not defined
        return float(np.corrcoef(ranks)[1, 0])
