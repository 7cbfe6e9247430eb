"""Agreement with a known ranking, prompts drawn again: against plain Python over all draws, from a
store, and by simulation.
"""

import itertools
import json
import math
from dataclasses import fields
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rsr_ray.cli import main
from rsr_ray.decide import agreement
from rsr_ray.decide.agreement import (
    Agreement,
    MetricAgreement,
    Orders,
    PromptAgreement,
    StudentAgreement,
    measure,
    pairs_right_interval,
)
from rsr_ray.decide.inference import influence
from rsr_ray.decide.matrices import Matrices
from rsr_ray.metrics import REGISTRY, RSR
from rsr_ray.store.store import Store

from .conftest import few
from .simulate_agreement import count_agreement
from .test_correlate import score_row, write, write_scores

AGREEMENT = "tau_b pairs_right first_right"
METRIC = "metric better seen drawn tau_b_interval pairs_right_interval why_null"
STUDENT = "student n_prompts groups n_pairs metrics"
ANSWER = "confidence draws seed students"


# --- against plain Python, over all draws----------------------------------------------------------


def of_draw(x: list, y: list, draw: tuple, accuracy: list) -> tuple:
    """tau-b (None if undefined), share of pairs right and of the first, exactly, of one draw."""
    teachers = range(len(accuracy))
    values = [
        Fraction(sum(int(x[p][t]) for p in draw), sum(int(y[p][t]) for p in draw)) for t in teachers
    ]
    right = known = ahead = untied = 0
    for a, b in itertools.combinations(teachers, 2):
        untied += values[a] != values[b]
        if accuracy[a] == accuracy[b]:
            continue
        known += 1
        better, worse = (a, b) if accuracy[a] > accuracy[b] else (b, a)
        ahead += (values[better] < values[worse]) - (values[better] > values[worse])
        right += Fraction(values[better] < values[worse])
        right += Fraction(values[better] == values[worse], 2)
    first = [t for t in teachers if values[t] == min(values)]
    best = [t for t in first if accuracy[t] == max(accuracy)]
    tau_b = ahead / math.sqrt(known * untied) if untied else None
    return tau_b, right / known, Fraction(len(best), len(first))


prompts_of_four = st.lists(
    st.tuples(*[st.integers(1, 4)] * 6), min_size=2, max_size=4
)  # x of three teachers, then y
accuracies = st.tuples(*[st.integers(0, 2)] * 3).filter(lambda some: len({*some}) > 1)


@given(prompts_of_four, accuracies)
def test_probabilities_are_those_of_all_draws(prompts, accuracy):
    x, y = [row[:3] for row in prompts], [row[3:] for row in prompts]
    n = len(prompts)
    draws = list(itertools.product(range(n), repeat=n))
    want = [of_draw(x, y, draw, accuracy) for draw in draws]
    a, b = (np.array(some, float)[np.array(draws)].sum(1) for some in (x, y))
    orders = Orders.of(a / b, np.array(accuracy, float))
    for tau_b, (exact, _, _) in zip(orders.tau_b, want, strict=True):
        assert math.isnan(tau_b) if exact is None else tau_b == pytest.approx(exact)
    assert orders.pairs_right == pytest.approx([float(right) for _, right, _ in want])
    assert orders.first_right == pytest.approx([float(first) for *_, first in want])
    found = Agreement.of(orders)
    defined = [tau_b for tau_b, *_ in want if tau_b is not None]
    assert found.tau_b == (pytest.approx(sum(defined) / len(defined)) if defined else None)
    assert found.pairs_right == pytest.approx(float(sum(right for _, right, _ in want)) / n**n)
    assert found.first_right == pytest.approx(float(sum(first for *_, first in want)) / n**n)


@given(st.lists(st.integers(0, 3), min_size=3, max_size=7), st.lists(st.integers(0, 3), min_size=7))
def test_tau_b_is_scipys(values, accuracy):
    accuracy = accuracy[: len(values)]
    if len({*accuracy}) > 1 and len({*values}) > 1:
        (found,) = Orders.of(np.array([values], float), np.array(accuracy, float)).tau_b
        want = stats.kendalltau(-np.array(values), accuracy).statistic
        assert found == pytest.approx(want)


def lognormal(seed: int, n: int, means: list[float]) -> Matrices:
    rng = np.random.default_rng(seed)
    x = rng.lognormal(0, 0.4, (n, len(means))) * means
    y = rng.lognormal(0, 0.2, (n, len(means)))
    return Matrices(x, y, np.ones_like(x))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("better", ["lower", "higher"])
def test_the_draws_that_are_made_are_a_sample_of_all(seed, better):
    """All 3,125 draws of five prompts; 2,000 of them differ by no more than chance."""
    m = lognormal(seed, 5, [1.0, 1.1, 1.15, 1.4])
    accuracy = np.array([50.0, 40.0, 40.0, 30.0])
    metric = RSR if better == "lower" else REGISTRY["mean_entropy"]
    draws = np.array(list(itertools.product(range(5), repeat=5)))
    values = m.x[draws].sum(1) / m.y[draws].sum(1)
    if better == "higher":
        metric = next(m for m in REGISTRY.values() if m.better == "higher" and not m.within_prompt)
        accuracy = -accuracy
    exact = Agreement.of(Orders.of(metric.order(values), accuracy))
    found = measure(m, metric, accuracy).drawn
    for name in AGREEMENT.split():
        assert getattr(found, name) == pytest.approx(getattr(exact, name), abs=4 * 0.5 / 2000**0.5)
    assert measure(m, metric, accuracy).better == better


def test_a_group_of_equal_teachers_counts_neither_way():
    m = lognormal(0, 40, [1.0, 1.5, 1.5, 3.0])
    found = measure(m, RSR, np.array([3.0, 2.0, 2.0, 1.0]))
    assert (found.seen.pairs_right, found.seen.first_right) == (1, 1)
    assert found.seen.tau_b == pytest.approx(5 / math.sqrt(5 * 6))  # the most that ties allow
    assert found.tau_b_interval[1] == pytest.approx(5 / math.sqrt(5 * 6), abs=1e-3)
    both_best = measure(m, RSR, np.array([1.0, 2.0, 2.0, 0.0]))
    assert both_best.seen.first_right == 0
    assert both_best.seen.pairs_right == pytest.approx(3 / 5)


def test_teachers_that_are_one_tie_in_every_draw():
    m = lognormal(0, 40, [1.0, 1.0])
    same = Matrices(m.x[:, [0, 0]], m.y[:, [0, 0]], m.n)
    found = measure(same, RSR, np.array([2.0, 1.0]))
    assert (found.drawn.tau_b, found.drawn.pairs_right, found.drawn.first_right) == (None, 0.5, 0.5)
    assert found.pairs_right_interval == pytest.approx((0.5, 0.5))
    assert found.tau_b_interval is None


def test_the_interval_of_one_pair_is_students():
    m = lognormal(1, 30, [1.0, 1.1])
    values, each = influence(m.x, m.y)
    apart = (values[1] - values[0]) / stats.sem(each[:, 1] - each[:, 0])
    ends = stats.norm.cdf(math.sqrt(2) * (apart + stats.t.ppf([0.025, 0.975], 29)))
    assert pairs_right_interval(values, each, np.array([2.0, 1.0])) == pytest.approx(tuple(ends))
    low, high = pairs_right_interval(values, each, np.array([1.0, 2.0]))
    assert (1 - high, 1 - low) == pytest.approx(tuple(ends))


def test_an_interval_of_surely_ordered_teachers_is_narrow():
    m = lognormal(1, 300, [1.0, 2.0, 4.0])
    low, high = pairs_right_interval(*influence(m.x, m.y), np.array([3.0, 2.0, 1.0]))
    assert low > 0.999
    assert high == pytest.approx(1)


# --- from a store----------------------------------------------------------------------------------


def written(tmp_path, n_prompts: int = 30, groups=(50, 45, 45, 20), **row) -> list[str]:
    """Four teachers whose mean ranks rise; options of a command."""
    rng = np.random.default_rng(0)
    rows = [
        score_row(
            teacher,
            n,
            rank_sum=round(1000 * mean * rng.lognormal(0, 0.3)),
            surprisal_sum=1000 * rng.lognormal(0, 0.2),
            n_tokens=1000,
            trajectory_id=f"{teacher}{n}",
            **row,
        )
        for teacher, mean in zip("ABCD", (4, 5, 5.2, 8), strict=True)
        for n in range(n_prompts)
    ]
    store = Store(str(tmp_path / "store"), "s", None)
    write_scores(store, rows)
    accuracies = [
        {"student": "s", "teacher": t, "accuracy": a} for t, a in zip("ABCD", groups, strict=True)
    ]
    table = write(tmp_path / "a.csv", accuracies)
    return ["correlate", "--store", store.uri, "--accuracies", table, "--permutations", "50"]


def test_the_command_says_which_question_is_which(tmp_path, capsys):
    options = written(tmp_path)
    assert main([*options, "--by", "rsr", "n_tokens"]) == 0
    shown = capsys.readouterr().out
    assert "p and interval answer: would other teachers agree?" in shown
    assert "Would other prompts of these teachers give the order of their accuracies?" in shown
    assert (
        "student s: 30 shared prompts, 5 pairs of 4 teachers in a known order: A > B = C > D"
        in (shown)
    )
    assert "no agreement of n_tokens: the metric has no direction" in shown
    assert max(map(len, shown.splitlines()[-20:])) <= 200


def test_the_keys_of_an_agreement_and_its_numbers(tmp_path, capsys):
    options = written(tmp_path)
    assert main([*options, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["agreement"]
    assert list(told) == ANSWER.split() == [f.name for f in fields(PromptAgreement)]
    (student,) = told["students"]
    assert list(student) == STUDENT.split() == [f.name for f in fields(StudentAgreement)]
    assert (student["groups"], student["n_pairs"]) == ([["A"], ["B", "C"], ["D"]], 5)
    by_name = {of["metric"]: of for of in student["metrics"]}
    for of in student["metrics"]:
        assert list(of) == METRIC.split() == [f.name for f in fields(MetricAgreement)]
        assert (of["seen"] is None) == (of["why_null"] is not None)
    rsr = by_name["rsr"]
    for some in (rsr["seen"], rsr["drawn"]):
        assert list(some) == AGREEMENT.split() == [f.name for f in fields(Agreement)]
    low, high = rsr["pairs_right_interval"]
    assert 0.5 < low < rsr["drawn"]["pairs_right"] <= high + 1e-6 <= 1 + 1e-6
    assert by_name["n_tokens"]["why_null"] == "the metric has no direction"
    # tau-b is Kendall's of the table beside it, turned so that 1 is the same order
    assert main([*options, "--by", "rsr", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    kendall = told["metrics"][0]["students"]["s"]["kendall"]
    assert told["agreement"]["students"][0]["metrics"][0]["seen"]["tau_b"] == pytest.approx(
        -kendall
    )


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--set", "s/A/rsr=9"], "a value was set by hand (--set), not computed from prompts"),
        ([], None),
        (["--set", "s/A/accuracy=10"], None),
        (["--without", "D"], None),
    ],
)
def test_cells_that_are_set(tmp_path, capsys, more, why):
    assert main([*written(tmp_path), "--by", "rsr", "--json", *more]) == 0
    (student,) = json.loads(capsys.readouterr().out)["agreement"]["students"]
    (rsr,) = student["metrics"]
    assert rsr["why_null"] == why
    if more[-1:] == ["s/A/accuracy=10"]:
        assert (student["groups"], rsr["seen"]["first_right"]) == ([["B", "C"], ["D"], ["A"]], 0)


def test_why_nothing_is_said_of_other_prompts(tmp_path, capsys):
    def why(folder: str, **more) -> str:
        (tmp_path / folder).mkdir()
        options = [*written(tmp_path / folder, **more), "--by", "rsr", "--json"]
        assert main(options) == 0
        (student,) = json.loads(capsys.readouterr().out)["agreement"]["students"]
        return student["metrics"][0]["why_null"]

    assert why("few", n_prompts=4) == "4 shared prompts, 5 are needed"
    assert why("equal", groups=(1, 1, 1, 1)) == "every teacher has the same accuracy"


def test_a_table_has_no_prompts(tmp_path, capsys):
    rows = [{"student": "s", "teacher": t, "accuracy": a, "rsr": a} for a, t in enumerate("abcd")]
    table = write(tmp_path / "t.csv", rows)
    assert main(["correlate", "--table", table, "--permutations", "50", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["agreement"] is None


# --- simulation------------------------------------------------------------------------------------


def held(n_teachers: int, true: float, how: str, repetitions: int) -> float:
    c = count_agreement(n_teachers, 60, true, how, "measured", repetitions)
    return 1 - (c.above + c.below) / c.reports


@pytest.mark.simulation
@pytest.mark.parametrize(("n_teachers", "how"), [(3, "same"), (4, "noisy"), (8, "same")])
def test_the_interval_covers_what_it_should(n_teachers, how):
    repetitions = few(2000, 400)
    error = math.sqrt(0.05 * 0.95 / repetitions)
    assert 0.93 - 3 * error <= held(n_teachers, 2.0, how, repetitions) <= 0.97 + 3 * error


@pytest.mark.simulation
def test_a_simulation_finds_an_interval_of_seen_chances(monkeypatch):
    """As if what was seen had no noise of its own: it promises too much disorder."""
    monkeypatch.setattr(agreement, "SHARPENED", 1.0)
    monkeypatch.setattr(agreement, "BLUNTED", 1.0)
    assert held(8, 2.0, "same", 400) < 0.91
