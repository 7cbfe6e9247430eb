"""agreement: would other prompts of these teachers give the known order?

Correlations ask whether other teachers would agree, and draw teachers. Of few teachers that says
little, and with many prompts another question can be answered: prompts are drawn again, as many as
there are, and the same teachers are put in order by each draw. What is said is of such draws: the
mean over them of Kendall's tau-b and of the share of pairs that are in the known order, and the
share of them in which the first teacher is the known best. Teachers with the same accuracy are a
group: no order of them is right or wrong, and each of the best group is the best.

Legend: P prompts, T teachers, B draws, K pairs of teachers whose order is known.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import special

from rsr_ray.decide.evidence import Evidence, StudentColumns
from rsr_ray.decide.inference import (
    DRAWS,
    FEWEST,
    NOTHING,
    influence,
    standard_error,
    value_draws,
)
from rsr_ray.decide.matrices import Matrices
from rsr_ray.errors import counted
from rsr_ray.metrics import REGISTRY, Metric

CONFIDENCE = 0.95
SEED = 0
STEPS = 8  # to an end of the interval
# Noise disorders what is seen, so true differences are larger than seen ones: taken SHARPENED, the
# chances of pairs are right in the mean, over few pairs and many. The direction is that of BLUNTED
# ones, in which pairs far apart count too. `python -m tests.simulate_agreement agreement`.
SHARPENED = math.sqrt(2)
BLUNTED = math.sqrt(0.5)


@dataclass(frozen=True)
class Orders:
    """How orders of teachers agree with the known one; float64 [B] each."""

    tau_b: np.ndarray  # -1 to 1; NaN where all teachers tie
    pairs_right: np.ndarray  # share of the K pairs, a tie as half a pair
    first_right: np.ndarray  # 1 where the first is of the best group, 0 where not; a tie is shared

    @classmethod
    def of(cls, values: np.ndarray, accuracy: np.ndarray) -> "Orders":
        """Of values [B, T], lower is better, and accuracies [T], higher is better."""
        n_teachers = len(accuracy)
        ahead = np.zeros(len(values))  # pairs right less pairs wrong
        tied = np.zeros(len(values))
        for t in range(n_teachers - 1):
            order = np.sign(_apart(values[:, t + 1 :], values[:, [t]]))
            ahead += order @ np.sign(accuracy[t] - accuracy[t + 1 :])
            tied += (order == 0).sum(1)
        n_pairs = count_pairs(accuracy)
        with np.errstate(divide="ignore", invalid="ignore"):
            tau_b = ahead / np.sqrt(n_pairs * (math.comb(n_teachers, 2) - tied))
        first = _apart(values, values.min(1, keepdims=True)) == 0
        first_right = first[:, accuracy == accuracy.max()].sum(1) / first.sum(1)
        return cls(tau_b, (1 + ahead / n_pairs) / 2, first_right)


def count_pairs(accuracy: np.ndarray) -> int:
    """Pairs of teachers [T] whose order is known: K."""
    return int((accuracy[:, None] > accuracy).sum())


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Of one order of teachers, or means over the orders of draws."""

    tau_b: float | None
    pairs_right: float
    first_right: float  # over draws: the probability that the first is the known best

    @classmethod
    def of(cls, orders: Orders) -> "Agreement":
        tau_b = orders.tau_b[np.isfinite(orders.tau_b)]
        return cls(
            tau_b=float(tau_b.mean()) if len(tau_b) else None,
            pairs_right=float(orders.pairs_right.mean()),
            first_right=float(orders.first_right.mean()),
        )


@dataclass(frozen=True, kw_only=True)
class MetricAgreement:
    """A metric's order of the teachers against the known one."""

    metric: str
    better: str  # lower, higher or "-"
    seen: Agreement | None  # on all the prompts
    drawn: Agreement | None  # over draws of as many
    tau_b_interval: tuple[float, float] | None  # of the means over such draws, at the confidence
    pairs_right_interval: tuple[float, float] | None
    why_null: str | None


@dataclass(frozen=True, kw_only=True)
class StudentAgreement:
    """Of each metric's order under one student."""

    student: str
    n_prompts: int  # that all teachers of the store answered
    groups: list[list[str]]  # teachers by accuracy, the best first: those with the same one
    n_pairs: int  # of teachers in different groups
    metrics: list[MetricAgreement]  # the most pairs right in draws first


@dataclass(frozen=True, kw_only=True)
class PromptAgreement:
    """Whether other prompts of these teachers would give the known order."""

    confidence: float
    draws: int
    seed: int
    students: list[StudentAgreement]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def agreement(evidence: Evidence, by: list[str] | None = None) -> PromptAgreement | None:
    """Of every metric, or those of `by`, under each student of a store.

    None for a table, which has values and no prompts.
    """
    students = [
        _of_student(name, student, by or evidence.metrics)
        for name, student in evidence.students.items()
        if student.scored is not None
    ]
    if not students:
        return None
    return PromptAgreement(confidence=CONFIDENCE, draws=DRAWS, seed=SEED, students=students)


def _of_student(name: str, student: StudentColumns, by: list[str]) -> StudentAgreement:
    accuracies = sorted({*student.accuracy.tolist()}, reverse=True)
    teachers = sorted(zip(student.teachers, student.accuracy.tolist(), strict=True))
    metrics = [_of_metric(metric, student) for metric in by if metric in student.metrics]
    return StudentAgreement(
        student=name,
        n_prompts=_n_shared(student),
        groups=[[t for t, own in teachers if own == accuracy] for accuracy in accuracies],
        n_pairs=count_pairs(student.accuracy),
        metrics=sorted(metrics, key=lambda of: -of.drawn.pairs_right if of.drawn else 1),
    )


def _n_shared(student: StudentColumns) -> int:
    """Prompts that all teachers of the store answered."""
    assert student.scored is not None
    return student.scored.matrices(REGISTRY["n_tokens"]).matched().n_prompts


def _of_metric(name: str, student: StudentColumns) -> MetricAgreement:
    assert student.scored is not None
    metric = REGISTRY[name]
    every, is_matched = student.scored.matrices(metric).compared()
    places = [student.scored.teachers.index(teacher) for teacher in student.teachers]
    compared = every.teachers(np.array(places, np.int64))
    if why := _why_null(metric, student, compared, is_matched):
        return MetricAgreement(
            metric=name,
            better=metric.better,
            seen=None,
            drawn=None,
            tau_b_interval=None,
            pairs_right_interval=None,
            why_null=why,
        )
    return measure(compared, metric, student.accuracy)


def _why_null(
    metric: Metric, student: StudentColumns, compared: Matrices, is_matched: bool
) -> str | None:
    """Why nothing can be said of other prompts; None if something can."""
    if metric.better == "-":
        return "the metric has no direction"
    if not count_pairs(student.accuracy):
        return "every teacher has the same accuracy"
    if not is_matched:
        return "the teachers answered different prompts"
    if compared.n_prompts < FEWEST:
        return f"{counted(compared.n_prompts, 'shared prompt')}, {FEWEST} are needed"
    if not np.allclose(compared.values(), student.metrics[metric.name], rtol=NOTHING, atol=0):
        return "a value was set by hand (--set), not computed from prompts"
    return None


def measure(
    compared: Matrices, metric: Metric, accuracy: np.ndarray, seed: int = SEED
) -> MetricAgreement:
    """Of teachers [T] with these accuracies, on the prompts that they share."""
    values, each = influence(compared.x, compared.y)
    values, each = metric.order(values), metric.order(each)
    drawn = metric.order(value_draws(compared.x, compared.y, seed))
    ends = pairs_right_interval(values, each, accuracy)
    # Teachers that tie on all prompts tie in every draw: tau-b is this times right less wrong.
    different = sum(
        np.count_nonzero(_apart(values[t + 1 :], values[t])) for t in range(len(values))
    )
    scale = math.sqrt(count_pairs(accuracy) / different) if different else None
    return MetricAgreement(
        metric=metric.name,
        better=metric.better,
        seen=Agreement.of(Orders.of(values[None], accuracy)),
        drawn=Agreement.of(Orders.of(drawn, accuracy)),
        tau_b_interval=(
            (scale * (2 * ends[0] - 1), scale * (2 * ends[1] - 1)) if scale is not None else None
        ),
        pairs_right_interval=ends,
        why_null=None,
    )


def pairs_right_interval(
    values: np.ndarray, each: np.ndarray, accuracy: np.ndarray
) -> tuple[float, float]:
    """The interval of the mean share of pairs right on other P prompts, the same teachers.

    If values [T] were the true ones, other prompts would have a pair right with the chance that
    the normal distribution gives to its difference over its standard error; to values each prompt
    adds `each` [P, T]. The ends are that share for true values Student's t away from those seen,
    in the direction in which the share falls, or rises, the most, which is followed in STEPS.
    """
    n = len(each)
    covariance = each.T @ each / (n * (n - 1))
    a, b = np.nonzero(accuracy[:, None] > accuracy)
    error = standard_error(each[:, b] - each[:, a])
    varies = error > NOTHING * np.abs(values[a])
    a, b, fixed, error = a[varies], b[varies], _apart(values[b], values[a])[~varies], error[varies]
    if not len(a):
        share = float(((1 + np.sign(fixed)) / 2).mean())
        return share, share
    reach = float(special.stdtrit(n - 1, (1 + CONFIDENCE) / 2))
    ends = []
    for way in (-reach, reach):
        moved = values.copy()
        for _ in range(STEPS):
            z = BLUNTED * (moved[b] - moved[a]) / error
            slope = np.exp((np.min(z**2) - z**2) / 2) / error
            gradient = np.bincount(b, slope, len(values)) - np.bincount(a, slope, len(values))
            direction = covariance @ gradient
            length = math.sqrt(max(0.0, gradient @ direction))
            moved += way / STEPS * direction / length if length else 0.0
        chances = special.ndtr(SHARPENED * (moved[b] - moved[a]) / error)
        of_fixed = (1 + np.sign(fixed)) / 2
        ends.append(float(np.concatenate([chances, of_fixed]).mean()))
    return ends[0], ends[1]


def _apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a - b, 0 where that is rounding alone."""
    difference: np.ndarray = a - b
    difference[np.abs(difference) <= NOTHING * np.abs(a)] = 0.0
    return difference
