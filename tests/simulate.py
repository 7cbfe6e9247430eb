"""How often what inference.py says is right, on made-up prompts whose truth is known:

`python -m tests.simulate ranks [--fast]`.

Prompts are log-normal, with the spreads and correlations measured on real corpora: coefficients of
variation .47 of mean ranks and .21 of mean surprisals, correlation .93 of the two and .63 of two
teachers; "wide" has twice the spreads. Teachers' true values are spread normally about a common
one; a standard error (SE) is that of one teacher's value. All tables take about a quarter of an
hour on one core: ranks intervals more compare strata.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
import pyarrow as pa

from rsr_ray.decide.bases import Basis
from rsr_ray.decide.inference import chances, influence, interval, more_prompts, place_bounds
from rsr_ray.decide.matrices import Matrices
from rsr_ray.decide.measured import Measured, measure_by_errors, measure_on_prompts
from rsr_ray.decide.moved import find_moves
from rsr_ray.decide.orders import Orders
from rsr_ray.decide.ranking import own_intervals
from rsr_ray.decide.scored import Scored
from rsr_ray.decide.strata import Stratum
from rsr_ray.decide.stratified import Stratified
from rsr_ray.metrics import RSR

SPREADS = {"measured": (0.47, 0.21), "wide": (0.94, 0.42)}
OF_TERMS, OF_TEACHERS = 0.93, 0.63  # correlations
TEACHERS, PROMPTS, TRUE = (2, 6, 11, 40), (5, 8, 20, 60, 300), (0.0, 0.5, 1.0, 2.0)
CLAIM, SURE = 0.95, 0.99


def prompts_of(
    rng: np.random.Generator, shape: tuple[int, ...], spread: str, *, even: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Mean ranks and mean surprisals of the answers of teachers to prompts, [..., P, T], each of
    mean 1; `even`: normal with the same spreads, so without a long tail.
    """
    shared, own = rng.standard_normal((2, *shape[:-1], 1)), rng.standard_normal((2, *shape))
    rank, other = math.sqrt(OF_TEACHERS) * shared + math.sqrt(1 - OF_TEACHERS) * own
    surprisal = OF_TERMS * rank + math.sqrt(1 - OF_TERMS**2) * other
    if even:
        x, y = (1 + cv * n for cv, n in zip(SPREADS[spread], (rank, surprisal), strict=True))
        return x, y
    sigmas = (math.sqrt(math.log1p(cv**2)) for cv in SPREADS[spread])
    x, y = (
        np.exp(sigma * normal - sigma**2 / 2)
        for sigma, normal in zip(sigmas, (rank, surprisal), strict=True)
    )
    return x, y


@cache
def error_of_one_prompt(spread: str) -> float:
    """Standard error of a teacher's value on one prompt."""
    x, y = prompts_of(np.random.default_rng(1), (400_000, 1), spread)
    return float((x - y).std())


@cache
def error_of_a_difference(spread: str) -> float:
    """Standard error of the difference of two teachers' values on one prompt."""
    x, y = prompts_of(np.random.default_rng(2), (400_000, 2), spread)
    return float(np.diff(x - y, axis=1).std())


def ranked(
    rng: np.random.Generator, n_teachers: int, n: int, true: float, spread: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True values [T] that are `true` SE apart, those seen on n prompts [T], and what each
    prompt adds to them [n, T].
    """
    x, y = prompts_of(rng, (n, n_teachers), spread)
    truth = np.exp(
        true * error_of_one_prompt(spread) / math.sqrt(n) * rng.standard_normal(n_teachers)
    )
    return truth, *influence(x * truth, y)


# --- places and chances----------------------------------------------------------------------------


@dataclass
class Counts:
    """Of reports: how many, and in how many of them what."""

    reports: int = 0
    wrong_places: int = 0  # some true place is not among the bounds
    one_best: int = 0  # a single best teacher is named
    may_be_best: int = 0  # teachers
    claims: int = 0  # P(best) of CLAIM or more
    right: int = 0
    pairs: int = 0  # probabilities of an order of CLAIM or more
    right_pairs: int = 0
    sure: int = 0  # some probability above SURE

    def add(self, other: "Counts") -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


def count_ranks(n_teachers: int, n: int, true: float, spread: str, repetitions: int) -> Counts:
    """Ranks of repetitions of a cell."""
    rng, counts = np.random.default_rng([n_teachers, n, int(10 * true), len(spread)]), Counts()
    for _ in range(repetitions):
        truth, values, each = ranked(rng, n_teachers, n, true, spread)
        places, order = place_bounds(values, each), chances(values, each)
        # equal teachers share the places from `lowest` to `highest`
        lowest = 1 + (truth < truth[:, None]).sum(1)
        highest = (truth <= truth[:, None]).sum(1)
        pairs = np.argwhere(order.before >= CLAIM)
        first = int(order.best.argmax())
        claim = bool(order.best[first] >= CLAIM)
        counts.add(
            Counts(
                reports=1,
                wrong_places=bool((places.first > lowest).any() or (places.last < highest).any()),
                one_best=len(places.best) == 1,
                may_be_best=len(places.best),
                claims=claim,
                right=claim and bool((truth[first] < np.delete(truth, first)).all()),
                pairs=len(pairs),
                right_pairs=int((truth[pairs[:, 0]] < truth[pairs[:, 1]]).sum()),
                sure=bool((order.before > SURE).any() or (order.best > SURE).any()),
            )
        )
    return counts


def ranks(fast: bool) -> Iterator[str]:
    """Bounds on places, and P(best) and the probabilities of pairs."""
    yield (
        (
            f"{'prompts':>9} {'T':>3} {'n':>4} {'SE apart':>8} | {'all places held':>15} "
            f"{'one best':>8} {'may be best':>11} | "
        )
        + (f"{'P(best) .95+':>12} {'right':>6} {'pairs .95+':>10} {'right':>6} {'any > .99':>9}")
    )
    for spread in SPREADS:
        for n_teachers in TEACHERS[: 2 if fast else None]:
            for n in PROMPTS:
                for true in TRUE:
                    c = count_ranks(
                        n_teachers, n, true, spread, 40 if fast else 100 if n_teachers > 11 else 500
                    )
                    held, best = 1 - c.wrong_places / c.reports, c.may_be_best / c.reports
                    claims = (
                        f"{c.claims:12} {share(c.right, c.claims):>6} {c.pairs:10} "
                        f"{share(c.right_pairs, c.pairs):>6}"
                    )
                    yield (
                        f"{spread:>9} {n_teachers:3} {n:4} {true:8} | {held:15.1%} "
                        f"{c.one_best / c.reports:8.1%} {best:11.2f} | "
                        f"{claims} {c.sure / c.reports:9.1%}"
                    )


def share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


# --- intervals-------------------------------------------------------------------------------------


def tails(n: int, spread: str, repetitions: int) -> tuple[float, float]:
    """Shares of 95% intervals that lie wholly above the true value, and below it."""
    rng, missed = np.random.default_rng([n, len(spread)]), np.zeros(2)
    for start in range(0, repetitions, 500):
        some = min(500, repetitions - start)
        x, y = prompts_of(rng, (some, n, 1), spread)
        found = interval(*influence(x[..., 0].T, y[..., 0].T))
        missed += (found.low > 1).sum(), (found.high < 1).sum()
    return float(missed[0] / repetitions), float(missed[1] / repetitions)


def intervals(fast: bool) -> Iterator[str]:
    """Both tails of the 95% intervals of a teacher's value."""
    yield f"{'prompts':>9} {'n':>4} | {'true value below':>16} {'above':>6}"
    for spread in SPREADS:
        for n in PROMPTS:
            below, above = tails(n, spread, 500 if fast else 10_000)
            yield f"{spread:>9} {n:4} | {below:16.1%} {above:6.1%}"


# --- how many more prompts-------------------------------------------------------------------------


def count_more(
    n_teachers: int, n: int, gap: float, spread: str, repetitions: int
) -> tuple[int, int, int]:
    """Reports that do not tell the first two apart, those that say how many more prompts would, and
    those that are right.

    Teachers are `gap` standard errors of their difference apart on n prompts; that many prompts are
    drawn besides the n.
    """
    rng = np.random.default_rng([n_teachers, n, int(10 * gap)])
    error = error_of_a_difference(spread) / math.sqrt(n)
    truth = 1 + gap * error * np.arange(n_teachers)
    untold = said = right = 0
    for _ in range(repetitions):
        x, y = prompts_of(rng, (n, n_teachers), spread)
        x *= truth
        values, each = influence(x, y)
        order = np.argsort(values)
        places = place_bounds(values[order], each[:, order])
        if len(places.best) == 1:
            continue
        untold += 1
        rival = int(places.best[1])
        more = more_prompts(values[order], each[:, order], (0, rival), places.critical, len(each))
        if more is None:
            continue
        said += 1
        ahead, behind = sorted((order[0], order[rival]))
        new_x, new_y = prompts_of(rng, (more, n_teachers), spread)
        values, each = influence(np.vstack([x, new_x * truth]), np.vstack([y, new_y]))
        right += bool(place_bounds(values, each).before[ahead, behind])
    return untold, said, right


def more(fast: bool) -> Iterator[str]:
    """How often as many more prompts as were named told the two teachers apart, the better one
    first.
    """
    yield (
        f"{'prompts':>9} {'T':>3} {'n':>4} {'gap in SE':>9} | {'not told apart':>14} "
        f"{'said':>6} {'told apart then':>15}"
    )
    for spread in SPREADS:
        for n_teachers in TEACHERS[: 1 if fast else 2]:
            for n in (20, 60):
                for gap in (0.0, 0.5, 1.0, 2.0):
                    repetitions = 60 if fast else 600
                    untold, said, right = count_more(n_teachers, n, gap, spread, repetitions)
                    yield (
                        f"{spread:>9} {n_teachers:3} {n:4} {gap:9} | "
                        f"{untold / repetitions:14.1%} {share(said, untold):>6} "
                        f"{share(right, said):>15}"
                    )


# --- compare---------------------------------------------------------------------------------------


def answers(rng: np.random.Generator, shared: np.ndarray, samples: int, within: float) -> Matrices:
    """Sums of several answers to prompts, whose correlation within a prompt is `within`;
    `shared` normal [2, P, 1] is the prompts' own.
    """
    own = rng.standard_normal((2, shared.shape[1], samples))
    rank, other = math.sqrt(within) * shared + math.sqrt(1 - within) * own
    surprisal = OF_TERMS * rank + math.sqrt(1 - OF_TERMS**2) * other
    sigmas = (math.sqrt(math.log1p(cv**2)) for cv in SPREADS["measured"])
    x, y = (
        np.exp(sigma * normal).sum(1, keepdims=True)
        for sigma, normal in zip(sigmas, (rank, surprisal), strict=True)
    )
    return Matrices(x, y, np.full_like(x, samples))


def false_moves(basis: str, n: int, samples: int, repetitions: int, within: float = 0.6) -> float:
    """Share of comparisons of two sides that differ by noise alone in which a teacher moved by
    more than noise.
    """
    rng, moved = np.random.default_rng([n, samples, len(basis)]), 0
    for _ in range(repetitions):
        shared = rng.standard_normal((2, 2, n, 1))
        a, b = (
            answers(rng, shared[0 if basis == "prompts" else side], samples, within)
            for side in (0, 1)
        )
        measured = (
            measure_on_prompts(a, b, np.ones((n, 1), bool), 0.95, 0)
            if basis == "prompts"
            else independent(a, b)
        )
        found = Basis(basis, ["a"], measured, measured, [], [])
        (move,) = find_moves(found, np.full((2, 1), n * samples), RSR, 0.95, same_student=True)
        moved += bool(move.more_than_noise)
    return moved / repetitions


def independent(a: Matrices, b: Matrices) -> Measured:
    """As `on_aggregates` has it: what is known is each side's value and its error."""
    values = np.stack([a.values(), b.values()])
    error = np.stack([own_intervals(side, 0.95, 0).error for side in (a, b)])
    return measure_by_errors(values, error, np.array([[len(a.x)], [len(b.x)]]), 0.95, 0)


def compare(fast: bool) -> Iterator[str]:
    """False "more than noise" of `rsr-ray compare`, with several answers to a prompt."""
    yield f"{'basis':>10} {'n':>4} {'answers':>7} | {'more than noise':>15}"
    for basis in ("prompts", "aggregates"):
        for n in (20, 60):
            for samples in (1, 4, 8):
                yield (
                    f"{basis:>10} {n:4} {samples:7} | "
                    f"{false_moves(basis, n, samples, 300 if fast else 4000):15.1%}"
                )


# --- strata ---------------------------------------------------------------------------------------


@dataclass
class StrataCounts:
    """Of reports on strata: how many, and in how many of them what."""

    reports: int = 0
    values: int = 0
    below: int = 0  # true values over all strata that lie below their interval
    above: int = 0
    wrong_places: int = 0  # some true place over all strata is not among the bounds
    wrong_changes: int = 0  # some pair changes order "by more than noise" that does not

    def add(self, other: "StrataCounts") -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


def weights_of(n_strata: int, first: float) -> np.ndarray:
    """Weights of strata that add up to 1, of which the first has `first`; 0: all the same."""
    if not first:
        return np.full(n_strata, 1 / n_strata)
    return np.array([first, *[(1 - first) / (n_strata - 1)] * (n_strata - 1)])


def count_strata(
    n_strata: int,
    n: int,
    spread: str,
    first: float,
    repetitions: int,
    n_teachers: int = 6,
    *,
    even: bool = False,
) -> StrataCounts:
    """Reports on strata of n prompts each, whose levels and teachers differ.

    Over all strata teachers are one SE apart. For changes of order, they are far apart in the first
    stratum and alike in all others: none of the pairs changes order.
    """
    rng, counts = np.random.default_rng([n_strata, n, len(spread)]), StrataCounts()
    weights = weights_of(n_strata, first)
    for _ in range(repetitions):
        x, y = prompts_of(rng, (n_strata, n, n_teachers), spread, even=even)
        level = rng.lognormal(0, 0.3, (n_strata, 1))
        apart = error_of_one_prompt(spread) / math.sqrt(n)
        truth = level * np.exp(apart * rng.standard_normal((n_strata, n_teachers)))
        found = Stratified.of(_strata(x, y, truth), weights.tolist())
        value, interval = weights @ truth, found.interval(0.95, 0)
        places = found.places(0.95, 0)
        rank = value.argsort().argsort() + 1
        alike = np.ones((n_strata, n_teachers))
        alike[0] = np.exp(20 * apart * np.arange(n_teachers))
        changes = _orders(_strata(x, y, alike)).changes()
        counts.add(
            StrataCounts(
                reports=1,
                values=n_teachers,
                below=int((interval.low > value).sum()),
                above=int((interval.high < value).sum()),
                wrong_places=bool((places.first > rank).any() or (places.last < rank).any()),
                wrong_changes=any(change.more_than_noise for change in changes),
            )
        )
    return counts


def _strata(x: np.ndarray, y: np.ndarray, truth: np.ndarray) -> list[Matrices]:
    """Of terms [S, P, T] whose true ratios are `truth` [S, T]."""
    return [
        Matrices(a * values, b, np.ones_like(a)) for a, b, values in zip(x, y, truth, strict=True)
    ]


def _orders(strata: list[Matrices]) -> Orders:
    """What is said of the orders of the same teachers in these strata."""
    none, n_teachers = np.zeros(0, int), strata[0].x.shape[1]
    names = [f"t{t}" for t in range(n_teachers)]
    scored = Scored(names, pa.array([], pa.string()), none, none, {}, pa.table({}))
    of_names = [
        Stratum(f"s{s}", 1 / len(strata), scored, one, True) for s, one in enumerate(strata)
    ]
    return Orders.of(of_names, RSR, 0.95, 0)


def strata(fast: bool) -> Iterator[str]:
    """Values and places over all strata, and changes of order between them."""
    yield (
        f"{'prompts':>9} {'strata':>6} {'of n':>5} {'weights':>8} | {'true value below':>16} "
        f"{'above':>6} {'all places held':>15} {'false changes':>13}"
    )
    for name, spread in (*((name, name) for name in SPREADS), ("even", "measured")):
        for n_strata in (5, 30):
            for n in (5, 12):
                for first in (0.0, 0.8):
                    repetitions = 20 if fast else 100 if n_strata > 5 else 400
                    c = count_strata(n_strata, n, spread, first, repetitions, even=name == "even")
                    false = c.wrong_changes / c.reports
                    yield (
                        f"{name:>9} {n_strata:6} {n:5} {'.8, rest' if first else 'equal':>8} | "
                        f"{c.below / c.values:16.1%} {c.above / c.values:6.1%} "
                        f"{1 - c.wrong_places / c.reports:15.1%} {false:13.1%}"
                    )


TABLES: dict[str, Callable[[bool], Iterator[str]]] = {
    "ranks": ranks,
    "intervals": intervals,
    "more": more,
    "compare": compare,
    "strata": strata,
}


def print_tables(about: str, tables: dict[str, Callable[[bool], Iterator[str]]]) -> None:
    """Those that the command line names."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="+", choices=tables)
    parser.add_argument(
        "--fast", action="store_true", help="in seconds: fewer repetitions and teachers"
    )
    given = parser.parse_args()
    for name in given.tables:
        print(f"\n{name}: {tables[name].__doc__}", flush=True)
        for line in tables[name](given.fast):
            print(line, flush=True)


if __name__ == "__main__":
    print_tables(__doc__, TABLES)
