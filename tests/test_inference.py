"""What inference.py says, against brute force and scipy on tiny data, and by simulation: the fast
form of tests/simulate.py.

A simulation that cannot fail shows nothing: each has a fault planted beside it that it finds.
"""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rsr_ray.decide import inference
from rsr_ray.decide.inference import (
    DRAWS,
    chances,
    influence,
    interval,
    more_prompts,
    place_bounds,
    resamples,
    standard_error,
    value_draws,
)

from .conftest import few
from .simulate import count_more, count_ranks, false_moves, share, tails


def terms(seed: int, n: int, n_teachers: int, means: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.lognormal(0, 0.5, (n, n_teachers)) * (1 + means * np.arange(n_teachers))
    return x, rng.lognormal(0, 0.2, (n, n_teachers))


# --- brute force --------------------------------------------------------------------------------


@given(seed=st.integers(0, 999), n=st.integers(2, 30))
def test_a_ratio_and_its_error_are_those_of_the_delta_method(seed, n):
    x, y = terms(seed, n, 2)
    values, each = influence(x, y)
    assert values == pytest.approx(x.mean(0) / y.mean(0))
    assert each.sum(0) == pytest.approx(0, abs=1e-9)
    for t in range(2):
        (xx, xy), (_, yy) = np.cov(x[:, t], y[:, t])
        variance = (xx - 2 * values[t] * xy + values[t] ** 2 * yy) / y[:, t].mean() ** 2 / n
        assert standard_error(each)[t] == pytest.approx(math.sqrt(variance))
    ones = np.ones_like(x)
    assert standard_error(influence(x, ones)[1]) == pytest.approx(stats.sem(x, axis=0))


def every_draw(n: int) -> np.ndarray:
    """All n**n draws of n things with replacement, int [n**n, n]."""
    return np.array(list(itertools.product(range(n), repeat=n)))


def t_of(sample: np.ndarray) -> float:
    """Student's t as its definition has it, of draws that all have the same value too."""
    spread = sample.std(ddof=1)
    if spread > 1e-9:
        return float(sample.mean() / (spread / math.sqrt(len(sample))))
    return 0.0 if abs(sample.mean()) < 1e-9 else math.copysign(math.inf, sample.mean())


def test_an_interval_is_that_of_all_possible_draws():
    """All 3,125 draws of five prompts, each studentised by hand; those that are drawn leave the
    quantile its own error.
    """
    x, y = terms(3, 5, 1)
    values, each = influence(x, y)
    found = interval(values, each, 0.8)
    t = [t_of(each[draw, 0]) for draw in every_draw(5)]
    low, high = (values[0] - tail * standard_error(each)[0] for tail in np.quantile(t, [0.9, 0.1]))
    assert (found.low[0], found.high[0]) == pytest.approx((low, high), abs=0.1 * (high - low))


@pytest.mark.parametrize("seed", range(4))
def test_bounds_on_places_are_those_of_the_steps_of_their_definition(seed):
    """Every pair in either order, by hand, over the same draws."""
    x, y = terms(seed, 12, 4, means=0.5)
    values, each = influence(x, y)
    shares = resamples(12, 0).astype(np.float64)
    pairs = list(itertools.permutations(range(4), 2))  # a is worse than b
    seen, drawn = {}, {}
    for a, b in pairs:
        d = each[:, a] - each[:, b]
        seen[a, b] = (values[a] - values[b]) / (d.std(ddof=1) / math.sqrt(12))
        mean = shares @ d
        drawn[a, b] = mean / np.sqrt((shares @ d**2 - mean**2) / 11)
    still = set(pairs)
    while True:
        critical = np.sort(np.max([drawn[pair] for pair in still], axis=0))[
            math.ceil(0.95 * (DRAWS + 1)) - 1
        ]
        rejected = {pair for pair in still if seen[pair] > critical}
        if not rejected:
            break
        still -= rejected
    found = place_bounds(values, each)
    assert found.critical == pytest.approx(critical, rel=1e-4)
    assert {(a, b) for a, b in pairs if found.before[b, a]} == set(pairs) - still
    assert found.first.tolist() == [
        1 + sum((t, b) not in still for b in range(4) if b != t) for t in range(4)
    ]
    assert found.last.tolist() == [
        4 - sum((a, t) not in still for a in range(4) if a != t) for t in range(4)
    ]


@settings(max_examples=few(20, 10), deadline=None)
@given(seed=st.integers(0, 999), order=st.permutations(range(4)))
def test_the_order_of_teachers_changes_nothing(seed, order):
    x, y = terms(seed, 15, 4)
    values, each = influence(x, y)
    found, turned = place_bounds(values, each), place_bounds(values[order], each[:, order])
    assert turned.first.tolist() == found.first[order].tolist()
    assert turned.last.tolist() == found.last[order].tolist()


def test_the_scale_of_the_values_changes_nothing():
    x, y = terms(1, 30, 3, means=0.3)
    found = [place_bounds(*influence(x * scale, y)).before.tolist() for scale in (1e-9, 1.0, 1e9)]
    assert found[0] == found[1] == found[2]


def test_draws_of_values_are_those_of_prompts_drawn_one_by_one():
    x, y = terms(2, 6, 2)
    counts = np.rint(resamples(6, 0) * 6).astype(int)
    assert (counts.sum(1) == 6).all()
    for drawn, weights in list(zip(value_draws(x, y), counts, strict=True))[:50]:
        rows = np.repeat(np.arange(6), weights)
        assert drawn == pytest.approx(x[rows].mean(0) / y[rows].mean(0), rel=1e-5)


def test_more_prompts_than_are_resampled_one_by_one(monkeypatch):
    x, y = terms(5, 400, 3, means=0.0)
    each = influence(x, y)
    found = interval(*each)
    monkeypatch.setattr(inference, "GROUPS", 150)
    grouped = interval(*each)
    assert (grouped.high - grouped.low) == pytest.approx(found.high - found.low, rel=0.1)
    assert place_bounds(*each).critical == pytest.approx(2.35, abs=0.2)


def test_chances_of_a_known_model():
    """Far apart teachers are hardly shrunk: the chance is Student's t of the difference."""
    rng = np.random.default_rng(0)
    each = rng.normal(0, 1, (6, 2))
    each -= each.mean(0)
    d = each[:, 0] - each[:, 1]
    found = chances(np.array([0.0, 0.0]), each, n_draws=100_000)
    assert found.best == pytest.approx([0.5, 0.5], abs=0.01)
    third = np.column_stack([each, np.zeros(6)])
    gap = 1.5 * d.std(ddof=1) / math.sqrt(6)
    found = chances(np.array([0.0, gap, 1e6]), third, n_draws=100_000)
    assert found.before[0, 1] == pytest.approx(stats.t.cdf(1.5, 5), abs=0.02)
    assert found.before[0, 2] == 1
    assert found.before + found.before.T == pytest.approx(np.ones((3, 3)))


@pytest.mark.parametrize("n_teachers", [2, 3, 150])
def test_teachers_that_are_one_teacher(n_teachers):
    x, y = (np.repeat(column, n_teachers, 1) for column in terms(0, 20, 1))
    values, each = influence(x, y)
    found = place_bounds(values, each)
    assert (found.first.tolist(), found.last.tolist()) == (
        [1] * n_teachers,
        [n_teachers] * n_teachers,
    )
    assert more_prompts(values, each, (0, 1), found.critical, len(each)) is None
    order = chances(values, each)
    assert 0.4 <= order.before.min() <= order.before.max() <= 0.6


def test_a_difference_that_every_prompt_shows_alike_is_sure():
    x = np.repeat(np.arange(1.0, 9.0)[:, None], 2, 1) + np.array([0.0, 1.0])
    found = place_bounds(*influence(x, np.ones_like(x)))
    assert found.last.tolist() == [1, 2]
    assert chances(*influence(x, np.ones_like(x))).best.tolist() == [1, 0]


def test_few_prompts_and_prompts_that_do_not_vary_have_no_interval():
    for x in (np.ones((10, 1)), np.arange(1.0, 5.0)[:, None]):
        found = interval(*influence(x, np.ones_like(x)))
        assert np.isnan([found.low, found.high]).all()


# --- simulation ---------------------------------------------------------------------------------


def normal_quantiles(each: np.ndarray, seed: int) -> np.ndarray:
    """The fault: draws of the mean over a standard error that is the same in every draw."""
    mean = resamples(len(each), seed) @ each
    return mean / np.where((error := standard_error(each)) > 0, error, 1.0)


def test_both_tails_of_an_interval_are_what_they_say(monkeypatch):
    below, above = tails(20, "measured", 2000)
    assert 0.015 <= below <= 0.04
    assert 0.015 <= above <= 0.045
    monkeypatch.setattr(inference, "_studentised", normal_quantiles)
    assert tails(20, "measured", 2000)[1] > 0.05


@pytest.mark.simulation
def test_all_places_hold_together_where_teachers_are_equal(monkeypatch):
    assert count_ranks(6, 20, 0.0, "measured", 150).wrong_places <= 0.07 * 150 + 6
    monkeypatch.setattr(inference, "_studentised", normal_quantiles)
    assert count_ranks(6, 8, 0.0, "measured", 150).wrong_places > 0.1 * 150


@pytest.mark.simulation
def test_chances_of_equal_teachers_are_rarely_near_one(monkeypatch):
    assert count_ranks(11, 8, 0.0, "measured", 150).sure <= 0.02 * 150 + 2
    monkeypatch.setattr(inference, "_share_of_noise", lambda _, noise, *__: np.zeros(len(noise)))
    assert count_ranks(11, 8, 0.0, "measured", 150).sure > 0.3 * 150


@pytest.mark.simulation
def test_claims_are_right():
    found = count_ranks(6, 20, 1.0, "measured", 150)
    assert found.pairs > 200
    assert found.right_pairs > 0.92 * found.pairs


@pytest.mark.simulation
def test_as_many_more_prompts_as_are_named_do_tell_two_teachers_apart():
    for gap, least, most in ((1.0, 0.65, 0.87), (2.0, 0.74, 0.95)):
        untold, said, right = count_more(2, 60, gap, "measured", 120)
        assert untold >= said > 40
        assert least <= right / said <= most, share(right, said)


@pytest.mark.simulation
@pytest.mark.parametrize("samples", [1, 8])
@pytest.mark.parametrize("basis", ["prompts", "aggregates"])
def test_answers_to_one_prompt_are_no_witnesses_of_each_other(basis, samples):
    assert 0.02 <= false_moves(basis, 40, samples, few(600, 300)) <= 0.075
