"""Teachers' aggregates: no order of additions changes a bit, and no trajectory overflows them."""

import math
import random
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rsr_ray.engine.sums import to_fixed
from rsr_ray.run.reduce import AVERAGED, COUNTED, count_once, deviation, teacher_table


def std(values: np.ndarray) -> float | None:
    sums = ([int(part.sum()) for part in to_fixed(v, 4)] for v in (values, values**2))
    return deviation(*sums, len(values))


def exact_std(values: np.ndarray) -> float:
    """In fractions, so without any rounding but the last."""
    exact = [Fraction(v) for v in values.tolist()]
    mean = sum(exact) / len(exact)
    return math.sqrt(sum((v - mean) ** 2 for v in exact) / (len(exact) - 1))


def test_a_loop_among_a_million_trajectories():
    values = np.random.default_rng(0).lognormal(1.5, 0.3, 1_000_000)
    values[123_456] = 1e9
    assert std(values) == pytest.approx(values.std(ddof=1), rel=1e-12)
    assert std(values[::-1]) == std(np.random.default_rng(1).permutation(values)) == std(values)


@example([5.0, 1.001], random.Random(0))
@given(st.lists(st.floats(1e-3, 1e13), min_size=2, max_size=40), st.randoms())
def test_a_deviation_is_exact_and_of_any_order(values, shuffle):
    want, got = exact_std(np.array(values)), std(np.array(values))
    # Values are kept to 2**-32, and so are their squares, which are float64; of two values the sum
    # is divided by one.
    budget = 2 * (max(values) ** 2 * 2.0**-52 + (1 + 2 * max(values)) * 2.0**-32)
    assert got**2 == pytest.approx(want**2, rel=1e-12, abs=budget)
    assert std(np.array(shuffle.sample(values, len(values)))) == got


def rows_of(surprisals: list[float], teacher: str = "T") -> pa.Table:
    """Trajectories of one token of rank 2, each with that surprisal."""
    n = len(surprisals)
    with np.errstate(divide="ignore"):
        rsr = 2 / np.array(surprisals)
    columns = {
        "teacher": [teacher] * n,
        "trajectory_id": [f"t{i}" for i in range(n)],
        "prompt_id": ["p"] * n,
        "source": ["s"] * n,
    }
    columns |= {
        "source_row": range(n),
        "n_tokens": [1] * n,
        "rank_sum": [2] * n,
        "surprisal_sum": surprisals,
        "mean_rank": [2.0] * n,
    }
    more = {
        "mean_surprisal": surprisals,
        "rsr": rsr,
        "reject_reason": pa.nulls(n, pa.string()),
        "truncated": [False] * n,
    }
    more |= {"content": ["c"] * n, "complete": pa.nulls(n, pa.bool_())}
    return pa.table(columns | more)


def teacher_of(rows: pa.Table) -> dict:
    counted = count_once(rows)
    names = [
        *COUNTED,
        *(f"{name}_{part}" for name, n_parts in AVERAGED.items() for part in range(n_parts)),
    ]
    totals = {name: int(np.sum(counted[name].to_numpy())) for name in names}
    rest = {
        "teacher": "T",
        "n_prompts": 1,
        "rsr_median": 1.0,
        "rejects": {"value": [], "counts": []},
    }
    return teacher_table([totals | rest], "f").to_pylist(maps_as_pydicts="strict")[0]


def test_one_answer_that_hardly_surprises_leaves_the_deviation_right():
    surprisals = [2.0, 1.0, 0.5, 2e-5]  # an rsr of 100,000: its square does not fit 32 bits
    got = teacher_of(rows_of(surprisals))
    assert got["rsr_std"] == pytest.approx(np.std(2 / np.array(surprisals), ddof=1), rel=1e-12)
    assert got["rsr_mean"] == pytest.approx(np.mean(2 / np.array(surprisals)), rel=1e-12)
    assert got["rsr"] == pytest.approx(2 / np.mean(surprisals), rel=1e-9)


@pytest.mark.parametrize("least", [0.0, 1e-16])
def test_an_answer_that_does_not_surprise_at_all_leaves_no_mean_of_ratios(least):
    got = teacher_of(rows_of([2.0, 1.0, least]))
    assert (got["rsr_mean"], got["rsr_std"]) == (None, None)
    assert got["rsr"] == pytest.approx(2.0, rel=1e-9)
    assert got["n_trajectories"] == 3
