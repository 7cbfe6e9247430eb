"""How often what agreement.py and within_prompts.py say is right, on made-up prompts whose truth is
known:

`python -m tests.simulate_agreement agreement within [--fast]`.

Prompts are those of tests/simulate.py. `agreement`: teachers' true values are spread normally about
a common one, by standard errors (SE) of one teacher's value; the known order is that of the true
values, of these with as much noise again, none of it, or their reverse. `within`: answers whose
prompts raise metric and length and lower the chance to be right.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import numpy as np

from rsr_ray.decide.agreement import Orders, pairs_right_interval
from rsr_ray.decide.inference import influence, value_draws
from rsr_ray.decide.within_prompts import Column, correlate_within

from .simulate import CLAIM, error_of_one_prompt, print_tables, prompts_of, share

TEACHERS, PROMPTS, TRUE = (3, 4, 8), (20, 60, 300), (0.0, 1.0, 2.0, 4.0)
KNOWN = ("same", "noisy", "reverse")
FRESH = 8_000  # draws of fresh prompts, which tell the truth
OTHER_TRUTHS = 50  # true values that are tried in a cell
NOTHING = 0.001  # of a share: what nobody reads, and FRESH draws do not tell


# --- agreement-------------------------------------------------------------------------------------


@cache
def fresh_values(n: int, n_teachers: int, spread: str) -> np.ndarray:
    """Values of teachers on n prompts, relative to the true ones, [FRESH, T]."""
    rng, found = np.random.default_rng([n, n_teachers]), []
    for _ in range(FRESH // 500):
        x, y = prompts_of(rng, (500, n, n_teachers), spread)
        found.append(x.sum(1) / y.sum(1))
    return np.concatenate(found)


def known_order(rng: np.random.Generator, truth: np.ndarray, how: str) -> np.ndarray:
    """Accuracies [T], higher is better, of teachers with these true values, lower is better; of
    four teachers or more the second and third best are a group.
    """
    merit = {
        "same": -truth,
        "noisy": -truth + (truth.std() or 1.0) * rng.standard_normal(len(truth)),
        "reverse": truth,
    }[how]
    place = np.argsort(np.argsort(-merit))
    return -np.where((place == 2) & (len(truth) > 3), 1, place).astype(float)


@dataclass
class Counts:
    """Of reports: how many, and in how many of them what."""

    reports: int = 0
    above: int = 0  # the true share of pairs right is above the interval
    below: int = 0
    claims: int = 0  # P(first right) of CLAIM or more
    right: float = 0.0  # of these, how often fresh prompts have the first right

    def add(self, other: "Counts") -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


def count_agreement(
    n_teachers: int, n: int, true: float, how: str, spread: str, repetitions: int
) -> Counts:
    """Reports of a cell, with OTHER_TRUTHS true values by turns."""
    rng = np.random.default_rng([n_teachers, n, int(10 * true), len(how)])
    counts = Counts()
    error = error_of_one_prompt(spread) / math.sqrt(n)
    for repetition in range(repetitions):
        if repetition % max(1, repetitions // OTHER_TRUTHS) == 0:
            truth = np.exp(true * error * rng.standard_normal(n_teachers))
            accuracy = known_order(rng, truth, how)
            orders = Orders.of(fresh_values(n, n_teachers, spread) * truth, accuracy)
            pairs_right, first_right = orders.pairs_right.mean(), orders.first_right.mean()
        x, y = prompts_of(rng, (n, n_teachers), spread)
        low, high = pairs_right_interval(*influence(x * truth, y), accuracy)
        claim = False
        if repetition % 8 == 0:  # draws take most of the time
            drawn = Orders.of(value_draws(x * truth, y), accuracy)
            claim = bool(drawn.first_right.mean() >= CLAIM)
        counts.add(
            Counts(
                reports=1,
                above=int(pairs_right > high + NOTHING),
                below=int(pairs_right < low - NOTHING),
                claims=int(claim),
                right=first_right if claim else 0.0,
            )
        )
    return counts


def agreement(fast: bool) -> Iterator[str]:
    """The interval of the mean share of pairs right on other prompts, and P(first right)."""
    yield (
        f"{'prompts':>9} {'T':>3} {'n':>4} {'known':>8} {'SE apart':>8} | {'held':>6} {'below':>6} "
        f"{'above':>6} | {'P(first) .95+':>13} {'right':>6}"
    )
    spreads = [("measured", n_teachers) for n_teachers in TEACHERS] + [("wide", 4)]
    of_spread: dict[tuple[str, int, int], Counts] = {}
    for (spread, n_teachers), n in itertools.product(spreads, PROMPTS[: 2 if fast else None]):
        total = of_spread[spread, n_teachers, n] = Counts()
        for how, true in itertools.product(KNOWN, TRUE):
            c = count_agreement(n_teachers, n, true, how, spread, 60 if fast else 400)
            total.add(c)
            yield f"{spread:>9} {n_teachers:3} {n:4} {how:>8} {true:8} | {_shares(c)}"
    for (spread, n_teachers, n), total in of_spread.items():
        yield f"{spread:>9} {n_teachers:3} {n:4} {'all':>8} {'all':>8} | {_shares(total)}"


def _shares(c: Counts) -> str:
    held = 1 - (c.above + c.below) / c.reports
    return (
        f"{held:6.1%} {c.below / c.reports:6.1%} {c.above / c.reports:6.1%} | {c.claims:13} "
        f"{share(c.right, c.claims):>6}"
    )


# --- within prompts--------------------------------------------------------------------------------


def answers_of(
    rng: np.random.Generator, n: int, n_answers: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The metric, verdict and ln length of answers, [n, A] each."""
    x, y = prompts_of(rng, (n, n_answers), "measured")
    metric = x / y
    own = np.log(metric) / 0.32
    difficulty = rng.standard_normal((n, 1))
    verdict = 0.4 - difficulty - 0.4 * own + rng.standard_normal(own.shape) > 0
    length = 0.5 * (difficulty + 0.5 * own + rng.standard_normal(own.shape))
    return metric * np.exp(0.2 * difficulty), verdict.astype(float), length


def correlation(other: str, rng: np.random.Generator, n: int, n_answers: int) -> Any:
    metric, verdict, length = answers_of(rng, n, n_answers)
    beside = {"verdict": verdict, "length": length}[other]
    prompt = np.repeat(np.arange(n), n_answers)
    return correlate_within(Column("rsr", metric.ravel()), Column(other, beside.ravel()), prompt)


@cache
def true_correlation(other: str, n_answers: int) -> float:
    found = correlation(other, np.random.default_rng(3), 200_000, n_answers).correlation
    assert found is not None
    return found


def within_tails(other: str, n: int, n_answers: int, repetitions: int) -> tuple[float, float]:
    """Shares of 95% intervals that lie wholly above the true correlation, and below it."""
    rng = np.random.default_rng([n, n_answers, len(other)])
    truth, missed = true_correlation(other, n_answers), np.zeros(2)
    for _ in range(repetitions):
        found = correlation(other, rng, n, n_answers)
        if found.low is not None:
            missed += found.low > truth, found.high < truth
    return float(missed[0] / repetitions), float(missed[1] / repetitions)


def within(fast: bool) -> Iterator[str]:
    """Both tails of the 95% intervals of correlations within prompts."""
    yield f"{'metric and':>10} {'n':>4} {'answers':>7} | {'true value below':>16} {'above':>6}"
    for other in ("verdict", "length"):
        for n in PROMPTS:
            for n_answers in (2, 4, 12):
                below, above = within_tails(other, n, n_answers, 200 if fast else 2000)
                yield f"{other:>10} {n:4} {n_answers:7} | {below:16.1%} {above:6.1%}"


TABLES: dict[str, Callable[[bool], Iterator[str]]] = {"agreement": agreement, "within": within}

if __name__ == "__main__":
    print_tables(__doc__, TABLES)
