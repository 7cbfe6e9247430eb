"""correlation: do metrics order teachers as the accuracy of the student trained on them does?

Correlations are taken over the teachers of one student. Over students they are the mean of the
signed correlations, as published (arXiv 2601.14249).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rsr_ray.decide.evidence import Evidence, StudentColumns
from rsr_ray.decide.json_values import known
from rsr_ray.decide.pair import FEWEST, Coefficients, Pair, n_tied, spearman_in_any_order
from rsr_ray.decide.published import PUBLISHED
from rsr_ray.decide.resampling import (
    NO_INTERVAL,
    RESAMPLES,
    SEED,
    BootstrapInterval,
    bootstrap_interval,
    permutation_p,
)
from rsr_ray.errors import UserError
from rsr_ray.metrics import REGISTRY


@dataclass(frozen=True, kw_only=True)
class StudentCorrelation:
    """A metric against the accuracies of one student."""

    n: int  # teachers with a value
    tied: int  # values that occur more than once
    coefficients: Coefficients | None  # None if they are not defined
    why_null: str | None  # why they are not
    p: float | None  # of |Spearman|, see `permutation_p`

    def to_json(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "tied": self.tied,
            **_coefficients_json(self.coefficients),
            "why_null": self.why_null,
            "p": self.p,
        }


@dataclass(frozen=True, kw_only=True)
class MeanCorrelation:
    """A metric over all students for which it has a correlation."""

    mean: Coefficients  # of the signed correlations
    mean_of_abs: float  # of |Spearman|
    p: float  # of |mean Spearman|, see `permutation_p`
    interval: BootstrapInterval  # of mean Spearman
    any_order_of_ties: tuple[float, float]  # mean Spearman at least and at most, without ties

    @property
    def abs_of_mean(self) -> float:
        """|mean Spearman|, the number that the paper prints."""
        return abs(self.mean.spearman)


@dataclass(frozen=True, kw_only=True)
class MetricCorrelation:
    """A metric's correlations with accuracy."""

    metric: str
    better: str  # lower or higher; "-" for a metric without a direction, or one not in the registry
    published: float | None  # `abs_of_mean` as the paper prints it for its own table
    students: dict[str, StudentCorrelation]
    over_students: MeanCorrelation | None  # None if no student has a correlation

    @property
    def n_students(self) -> int:
        """Students for which it has a correlation."""
        return sum(of.coefficients is not None for of in self.students.values())

    @property
    def interval(self) -> BootstrapInterval:
        return self.over_students.interval if self.over_students else NO_INTERVAL

    def to_json(self) -> dict[str, Any]:
        over = self.over_students
        return {
            "metric": self.metric,
            "better": self.better,
            "published": self.published,
            "students": {name: of.to_json() for name, of in self.students.items()},
            "n_students": self.n_students,
            **_coefficients_json(over.mean if over else None),
            "abs_of_mean": over and over.abs_of_mean,
            "mean_of_abs": over and over.mean_of_abs,
            "p": over and over.p,
            **self.interval.to_json(),
            "any_order_of_ties": over and list(over.any_order_of_ties),
        }


def _coefficients_json(coefficients: Coefficients | None) -> dict[str, float | None]:
    if coefficients is None:
        return {"spearman": None, "pearson": None, "kendall": None}
    return {name: known(value) for name, value in asdict(coefficients).items()}


@dataclass(frozen=True)
class StudentCounts:
    """A student that is correlated."""

    teachers: int
    tied_accuracies: int  # accuracies that occur more than once


@dataclass(frozen=True, kw_only=True)
class Correlations:
    """Every metric's correlations with accuracy, and how they were taken."""

    students: dict[str, StudentCounts]
    teachers: int  # of all students
    permutations: int  # at most so many orders of teachers are tried
    draws: int  # of the bootstrap
    seed: int  # of both
    notes: list[str]  # which prompts the values are of, one each
    left_out: list[str]  # a sentence each
    metrics: list[MetricCorrelation]  # the highest `abs_of_mean` first

    def to_json(self) -> dict[str, Any]:
        """Numbers that are not defined are null, with the reason."""
        return {
            "students": {name: asdict(counts) for name, counts in self.students.items()},
            "teachers": self.teachers,
            "permutations": self.permutations,
            "draws": self.draws,
            "seed": self.seed,
            "notes": self.notes,
            "left_out": self.left_out,
            "metrics": [metric.to_json() for metric in self.metrics],
        }


def correlate(
    evidence: Evidence,
    by: list[str] | None = None,
    n_permutations: int = RESAMPLES,
    n_draws: int = RESAMPLES,
) -> Correlations:
    """Every metric, or those of `by`, against accuracy, for each student and over students.

    A student with fewer than FEWEST teachers is left out. Raises UserError if none remains, or if
    no student has a metric of `by`.
    """
    usable = _with_enough_teachers(evidence)
    students = usable.students
    if not students:
        raise UserError("no student to correlate: " + "; ".join(usable.left_out))
    if by and (unknown := [name for name in by if name not in evidence.metrics]):
        raise UserError(
            f"--by {unknown[0]}: no such metric; metrics: {', '.join(evidence.metrics)}"
        )
    place_of = _places(students)
    metrics = [
        correlate_metric(name, students, place_of, n_permutations, n_draws)
        for name in by or evidence.metrics
    ]
    return Correlations(
        students={
            name: StudentCounts(len(student.teachers), n_tied(student.accuracy))
            for name, student in students.items()
        },
        teachers=len(place_of),
        permutations=n_permutations,
        draws=n_draws,
        seed=SEED,
        notes=usable.notes,
        left_out=usable.left_out,
        metrics=sorted(metrics, key=_by_abs_of_mean),
    )


def _with_enough_teachers(evidence: Evidence) -> Evidence:
    """Without the students that have fewer than FEWEST teachers."""
    too_few = {
        name: len(student.teachers)
        for name, student in evidence.students.items()
        if len(student.teachers) < FEWEST
    }
    why = [
        f"student {name}: {n} teachers with an accuracy, but {FEWEST} are needed"
        for name, n in too_few.items()
    ]
    return Evidence(
        students={n: student for n, student in evidence.students.items() if n not in too_few},
        left_out=evidence.left_out + why,
        notes=evidence.notes,
    )


def _by_abs_of_mean(metric: MetricCorrelation) -> float:
    """A sort key: the highest first, those without one last."""
    return -metric.over_students.abs_of_mean if metric.over_students else 1


def _places(students: Mapping[str, StudentColumns]) -> dict[str, int]:
    """The index of each teacher among the teachers of all students, in order of their names.

    A result that depended on the order of rows would be one about the file.
    """
    names = {teacher for student in students.values() for teacher in student.teachers}
    return {teacher: place for place, teacher in enumerate(sorted(names))}


def correlate_metric(
    name: str,
    students: Mapping[str, StudentColumns],
    place_of: Mapping[str, int],
    n_permutations: int,
    n_draws: int,
) -> MetricCorrelation:
    """One metric, for each student, and over the students for which it is defined."""
    n_teachers = len(place_of)
    pairs = {student: _pair(name, columns, place_of) for student, columns in students.items()}
    each = {
        student: correlate_pair(pair, n_teachers, n_permutations) for student, pair in pairs.items()
    }
    defined = [pairs[student] for student in sorted(pairs) if each[student].coefficients]
    metric = REGISTRY.get(name)
    return MetricCorrelation(
        metric=name,
        better=metric.better if metric else "-",
        published=PUBLISHED.get(name),
        students=each,
        over_students=(
            correlate_over_students(defined, n_teachers, n_permutations, n_draws)
            if defined
            else None
        ),
    )


def _pair(name: str, columns: StudentColumns, place_of: Mapping[str, int]) -> Pair:
    """The student's teachers that have a value of the metric."""
    n = len(columns.teachers)
    x = columns.metrics.get(name, np.full(n, math.nan))
    places = np.array([place_of[teacher] for teacher in columns.teachers], np.int64)
    is_there = ~np.isnan(x)
    return Pair(x[is_there], columns.accuracy[is_there], places[is_there])


def correlate_pair(pair: Pair, n_teachers: int, n_permutations: int) -> StudentCorrelation:
    """A metric against the accuracies of one student."""
    why_null = pair.why_undefined()
    return StudentCorrelation(
        n=len(pair.x),
        tied=n_tied(pair.x),
        coefficients=None if why_null else pair.coefficients,
        why_null=why_null,
        p=None if why_null else permutation_p([pair], n_teachers, n_permutations),
    )


def correlate_over_students(
    pairs: Sequence[Pair], n_teachers: int, n_permutations: int, n_draws: int
) -> MeanCorrelation:
    """A metric over students, from the pair of each."""
    each = [pair.coefficients for pair in pairs]
    low, high = np.mean([spearman_in_any_order(pair.x, pair.y) for pair in pairs], axis=0)
    return MeanCorrelation(
        mean=Coefficients(
            spearman=float(np.mean([of.spearman for of in each])),
            pearson=float(np.mean([of.pearson for of in each])),
            kendall=float(np.mean([of.kendall for of in each])),
        ),
        mean_of_abs=float(np.mean([abs(of.spearman) for of in each])),
        p=permutation_p(pairs, n_teachers, n_permutations),
        interval=bootstrap_interval(pairs, n_teachers, n_draws),
        any_order_of_ties=(float(low), float(high)),
    )
