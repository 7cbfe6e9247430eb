"""published: the correlations that arXiv 2601.14249 prints, beside those that its own table of values gives.

The paper's teachers' accuracies stand in it rounded to a decimal, so some are tied that were not, and one stands there as two
numbers. What of a difference that accounts for is computed here; what it does not is said.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from rsr_ray.correlate import PUBLISHED, Evidence, Student

STUDENTS = ("Qwen-3-14B", "LLaMA-3.1-8B", "Qwen-2.5-7B", "Qwen-3-4B", "Qwen-2.5-3B")
N_TEACHERS = 11
PUBLISHED_RSR = dict(zip(STUDENTS, (0.855, 0.845, 0.918, 0.818, 0.845), strict=True))
# The one accuracy that the paper prints as two numbers: the first in two of its tables, the second in two others.
TWICE = ("Qwen-2.5-7B", "DeepSeek-R1-0528", 47.3, 47.8)
MOST_ORDERS = 100  # of tied accuracies


@dataclass(frozen=True, kw_only=True)
class Order:
    """The paper's table under one reading of the accuracy with two, its tied accuracies told apart in one order."""

    students: dict[str, Student]
    second_reading: bool
    ties: list[dict[str, Any]]  # each tie's student, accuracy and teachers, highest first

    @property
    def reproduced(self) -> tuple[int, int]:
        """How many printed values it gives, of how many: those of the metrics that are there, and rsr's of each student."""
        there = [metric for metric in PUBLISHED if all(metric in student.metrics for student in self.students.values())]
        pairs = [(self.value(metric), PUBLISHED[metric]) for metric in there]
        if "rsr" in there:
            pairs += [(abs(spearman(student, "rsr")), PUBLISHED_RSR[name]) for name, student in self.students.items()]
        return sum(agrees(value, printed) for value, printed in pairs), len(pairs)

    def value(self, metric: str) -> float:
        return abs(mean_spearman(self.students, metric))


def compare(evidence: Evidence, metrics: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Of each metric (of those `correlate` gave) the absolute mean Spearman under the second reading, and where the table is the paper's
    whole one, what explains the difference from the printed value.

    None where the cell with two readings is not in the table. Plain data, ready for JSON.
    """
    name, teacher, first, second = TWICE
    student = evidence.students.get(name)
    if student is None or teacher not in student.teachers or student.accuracy[student.teachers.index(teacher)] != first:
        return None
    again = evidence.students | {name: student.with_cell(teacher, "accuracy", second)}
    whole = sorted(evidence.students) == sorted(STUDENTS) and {len(s.teachers) for s in evidence.students.values()} == {N_TEACHERS}
    tried = tell_apart(evidence.students, second_reading=False) + tell_apart(again, second_reading=True) if whole else []
    best = max(tried, key=lambda order: order.reproduced, default=None)
    out: dict[str, Any] = {"student": name, "teacher": teacher, "accuracy": first, "second_reading": second, "order": None}
    out |= {"rsr_of_students": None, "rows": []}
    if best:
        (n, of), as_good = best.reproduced, sum(order.reproduced == best.reproduced for order in tried) - 1
        out["order"] = {"reproduces": n, "of": of, "tried": len(tried), "as_good": as_good} | {
            key: getattr(best, key) for key in ("second_reading", "ties")
        }
        if all("rsr" in s.metrics for s in best.students.values()):
            out["rsr_of_students"] = {
                name: {"printed": printed, "here": spearman(evidence.students[name], "rsr"), "best_order": spearman(best.students[name], "rsr")}
                for name, printed in PUBLISHED_RSR.items()
            }
    for metric in [found["metric"] for found in metrics if found["n_students"] == len(again)]:
        if any(np.isnan(s.metrics[metric]).any() for s in again.values()):
            continue
        row: dict[str, Any] = {"metric": metric, "here": abs(mean_spearman(evidence.students, metric))}
        row |= {"second_reading": abs(mean_spearman(again, metric)), "second_reading_of_student": spearman(again[name], metric)}
        row |= {"best_order": best.value(metric) if best else None, "printed": PUBLISHED.get(metric) if whole else None, "reason": None}
        if row["printed"] is not None:
            row["reason"] = reason(row, best, tried)
        out["rows"].append(row)
    return out


def reason(row: dict[str, Any], best: Order | None, tried: list[Order]) -> str:
    """Why a printed value is not the recomputed one, as far as the table can tell."""
    printed, second = row["printed"], f"accuracy {TWICE[3]}"
    if agrees(row["here"], printed):
        return "agrees"
    if agrees(row["second_reading"], printed):
        return second
    if best is None:
        return "not explained: too many ties to try their orders"
    if agrees(best.value(row["metric"]), printed):
        return f"{second}, ties in the order below" if best.second_reading else "ties in the order below"
    if any(agrees(order.value(row["metric"]), printed) for order in tried):
        return "ties, in another order than the one below"
    return f"not explained: off by {min(abs(order.value(row['metric']) - printed) for order in tried):.4f} at the nearest"


def tell_apart(students: dict[str, Student], *, second_reading: bool) -> list[Order]:
    """Every possible order of tied accuracies; none where there are more than MOST_ORDERS."""
    ties: list[list[dict[str, Any]]] = []
    for name, student in students.items():
        for value in np.unique(student.accuracy):
            tied = [teacher for teacher, accuracy in zip(student.teachers, student.accuracy, strict=True) if accuracy == value]
            if len(tied) > 1:
                ties.append([{"student": name, "accuracy": float(value), "order": list(order)} for order in itertools.permutations(tied)])
    if math.prod(map(len, ties)) > MOST_ORDERS:
        return []
    orders = []
    for chosen in itertools.product(*ties):
        changed = dict(students)
        for tie in chosen:
            for place, teacher in enumerate(tie["order"]):
                changed[tie["student"]] = changed[tie["student"]].with_cell(teacher, "accuracy", tie["accuracy"] - 1e-6 * place)
        orders.append(Order(students=changed, second_reading=second_reading, ties=list(chosen)))
    return orders


def mean_spearman(students: dict[str, Student], metric: str) -> float:
    return float(np.mean([spearman(student, metric) for student in students.values()]))


def spearman(student: Student, metric: str) -> float:
    return float(stats.spearmanr(student.metrics[metric], student.accuracy).statistic)


def agrees(value: float, printed: float) -> bool:
    """Whether a value rounds to what is printed."""
    return abs(value - printed) <= half_unit(printed) + 1e-9


def half_unit(printed: float) -> float:
    """Half a unit of the last digit; two are printed at least."""
    return 0.5 * 10 ** -max(2, len(repr(printed).partition(".")[2]))
