"""Correlations know nothing of the order of rows, and a missing row takes away what it says and
no more.
"""

import csv
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rsr_ray.decide.correlation import MetricCorrelation, correlate
from rsr_ray.decide.evidence import from_table

from .conftest import WHOLE, few
from .test_correlate import PUBLISHED_TABLES, needs_tables, write

FEW = {"n_permutations": 2_000, "n_draws": 300}


def answers(path, rows: list[dict]) -> dict[str, MetricCorrelation]:
    """All that is said of each metric, whatever the order in which it is listed."""
    found = correlate(from_table(write(path, rows), None), **FEW)
    return {metric.metric: metric for metric in found.metrics}


@pytest.fixture(scope="module")
def published():
    with open(PUBLISHED_TABLES) as file:
        rows = list(csv.DictReader(file))
    return [
        {k: row[k] for k in ("student", "teacher", "accuracy", "rsr", "mean_surprisal")}
        for row in rows
    ]


@needs_tables
def test_the_published_table_in_any_order_says_the_same(published, tmp_path):
    path, rng = tmp_path / "t.csv", random.Random(0)
    told = answers(path, published)
    assert told["rsr"].over_students.p < 0.001
    orders = [rng.sample(published, len(published)) for _ in range(5)]
    orders += [
        sorted(published, key=lambda r: float(r["accuracy"]), reverse=down)
        for down in (True, False)
    ]
    for rows in orders:
        assert answers(path, rows) == told


@needs_tables
def test_one_row_less_is_one_row_less(published, tmp_path):
    """The p of rsr without any one row: what scipy's own test says of the aligned values, to
    within the draws of both.
    """
    path = tmp_path / "t.csv"
    for gone in range(0, len(published), 11 if WHOLE else 27):
        rows = published[:gone] + published[gone + 1 :]
        p = answers(path, rows)["rsr"].over_students.p
        assert p < 0.005
        assert p == pytest.approx(aligned_p(rows, "rsr"), abs=0.003)


def aligned_p(rows: list[dict], name: str, n: int = 1_000) -> float:
    """The same test written plainly: whole teachers exchange places, with their accuracies under
    every student.
    """
    teachers = sorted({row["teacher"] for row in rows})
    cell = {(r["student"], r["teacher"]): (float(r[name]), float(r["accuracy"])) for r in rows}
    students = sorted({row["student"] for row in rows})
    have = {s: [t for t, teacher in enumerate(teachers) if (s, teacher) in cell] for s in students}

    def ranks(side: int, student: str) -> np.ndarray:
        """About their mean: accuracies that change places keep theirs."""
        ranked = stats.rankdata([cell[student, teachers[t]][side] for t in have[student]])
        return ranked - ranked.mean()

    x, y = ({s: ranks(side, s) for s in students} for side in (0, 1))

    def mean_correlation(order: np.ndarray) -> float:
        each = []
        for s in students:
            places = sorted(range(len(have[s])), key=lambda place: order[have[s][place]])
            each.append(x[s] @ y[s][places] / len(places) ** 3 * 12)
        return abs(float(np.mean(each)))

    rng = np.random.default_rng(1)
    seen = mean_correlation(np.arange(len(teachers)))
    drawn = [mean_correlation(rng.permutation(len(teachers))) for _ in range(n)]
    return (1 + sum(value >= seen - 1e-12 for value in drawn)) / (n + 1)


@settings(deadline=None, max_examples=few(25, 12))
@given(seed=st.integers(0, 10_000))
def test_any_order_of_any_rows_says_the_same(tmp_path_factory, seed):
    rng = random.Random(seed)
    rows = [
        {
            "student": s,
            "teacher": f"t{t}",
            "accuracy": rng.randint(0, 6),
            "rsr": rng.choice([None, *range(4)]),
        }
        for s in ("u", "v", "w")
        for t in range(6)
        if rng.random() < 0.8
    ]
    # the columns are never empty
    rows.append({"student": "u", "teacher": "t9", "accuracy": 1.5, "rsr": 1})
    rows += [{"student": "x", "teacher": f"t{t}", "accuracy": t, "rsr": t % 3} for t in range(4)]
    path = tmp_path_factory.mktemp("any") / "t.csv"
    assert answers(path, rows) == answers(path, rng.sample(rows, len(rows)))
