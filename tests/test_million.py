"""A million score rows in bounded memory, against all of them at once: what is summed is the same,
and what is approximated is within the error that decide/README.md states.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest

from rsr_ray.decide import buckets, loading
from rsr_ray.decide.comparison import Comparison, compare_sides
from rsr_ray.decide.loading import load_ends, load_scored
from rsr_ray.decide.outcome import Outcome, outcome
from rsr_ray.decide.ranking import Ranking, TeacherPlace, rank_teachers
from rsr_ray.decide.scored import Scored
from rsr_ray.decide.sides import open_side
from rsr_ray.decide.strata_ranking import StrataRanking, rank_strata
from rsr_ray.metrics import RSR
from rsr_ray.run import reduce
from rsr_ray.run.reduce import reduce_scores
from rsr_ray.store.store import Store

from .big_store import FINGERPRINT, make_store

ROWS, SAMPLE = 1_000_000, 200_000
SURE = 4  # standard errors


class Said(NamedTuple):
    """What is said of a store."""

    table: list[dict]
    scored: Scored
    ranking: Ranking
    strata: StrataRanking
    outcome: Outcome
    compared: Comparison
    ends: list[dict]  # the best and worst trajectories


def say(store: Store) -> Said:
    table = reduce_scores(store, FINGERPRINT, list(store.counted(FINGERPRINT))).to_pylist()
    scored = load_scored(store, [RSR], stratum="source")
    ranking = rank_teachers(scored, RSR)
    ends, values = load_ends(store, scored, values_of(scored))
    return Said(
        table,
        scored,
        ranking,
        rank_strata(scored, RSR, "source"),
        outcome(scored, RSR, "made_up", verdicts_of(scored)),
        compare_sides(open_side(store.uri), open_side(store.uri), RSR),
        shown(ends, values),
    )


def values_of(scored: Scored) -> np.ndarray:
    return RSR.values(scored.columns, scored.prompt)


def verdicts_of(scored: Scored) -> np.ndarray:
    """Right more often where rsr is low; made of a row's own numbers."""
    chance = scored.columns["surprisal_sum"] * 1e6 % 1
    return (chance < 1 / (1 + np.exp(values_of(scored) / 5 - 2))).astype(float)


def shown(ends: Scored, values: np.ndarray) -> list[dict]:
    """The three best and the three worst rows of each teacher."""
    rows = []
    for t, name in enumerate(ends.teachers):
        own = np.flatnonzero(ends.teacher == t)
        own = own[np.argsort(values[own], kind="stable")]
        for i in [*own[:3], *own[-3:]]:
            row = ends.rows.slice(i, 1).to_pylist()[0]
            rows.append(row | {"teacher": name, "value": float(values[i])})
    return rows


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Said, Said]:
    """At once, and in buckets with a sample of a fifth of the prompts."""
    store = make_store(str(tmp_path_factory.mktemp("million")), ROWS, unit_rows=16_384)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "MOST_ROWS", 2 * ROWS)
        patch.setattr(reduce, "HERE_ROWS", 2 * ROWS)
        exact = say(store)
        patch.setattr(loading, "MOST_ROWS", SAMPLE)
        patch.setattr(reduce, "HERE_ROWS", SAMPLE)
        patch.setattr(buckets, "BUCKET_ROWS", 50_000)
        return exact, say(store)


def pairs(exact: Ranking, found: Ranking) -> Iterator[tuple[TeacherPlace, TeacherPlace]]:
    """Of all, and without degenerate trajectories."""
    others = [ranking.degeneration.without for ranking in (exact, found)]
    yield from zip(exact.teachers, found.teachers, strict=True)
    yield from zip(others[0].teachers, others[1].teachers, strict=True)


@pytest.mark.slow
def test_what_is_counted_is_the_same_to_the_bit(both):
    exact, found = both
    assert found.table == exact.table
    assert found.ends == exact.ends
    told = found.scored.told
    assert np.array_equal(told.values.n, exact.scored.per_teacher)
    assert (found.ranking.n_prompts, found.ranking.n_prompts_all, found.ranking.n_trajectories) == (
        exact.ranking.n_prompts,
        exact.ranking.n_prompts_all,
        exact.ranking.n_trajectories,
    )
    for name in ("n_degenerate", "n_cut_off", "n_unknown", "left_out", "warning"):
        assert getattr(found.ranking.degeneration, name) == getattr(
            exact.ranking.degeneration, name
        ), name
    for a, b in pairs(exact.ranking, found.ranking):
        same = ("teacher", "place", "n_trajectories", "mean_tokens", "degenerate", "cut_off")
        assert [getattr(b, name) for name in same] == [getattr(a, name) for name in same]
        assert b.all.n_prompts == a.all.n_prompts


@pytest.mark.slow
def test_values_are_the_same_to_the_rounding_of_sums(both, capsys):
    exact, found = both
    apart = []
    for a, b in pairs(exact.ranking, found.ranking):
        for name in ("value", "mean", "std", "won"):
            apart.append(relative(getattr(a, name), getattr(b, name)))
        apart.append(relative(a.all.value, b.all.value))
    for a, b in zip(exact.strata.strata, found.strata.strata, strict=True):
        for p, q in zip(a.ranking.teachers, b.ranking.teachers, strict=True):
            assert (p.teacher, p.n_trajectories) == (q.teacher, q.n_trajectories)
            apart.append(relative(p.value, q.value))
    for p, q in zip(exact.strata.overall.teachers, found.strata.overall.teachers, strict=True):
        assert p.teacher == q.teacher
        apart.append(relative(p.value, q.value))
    with capsys.disabled():
        same = np.mean(np.equal(apart, 0))
        print(f"\nvalues: {same:.0%} the same to the bit, {off(apart, '.1e')}")
    assert np.abs(apart).max() < 1e-12


def relative(exact: float, found: float) -> float:
    return 0.0 if found == exact else found / exact - 1


@pytest.mark.slow
def test_what_is_said_of_certainty_is_within_the_error_of_blocks(both, capsys):
    """Standard errors of 4,096 blocks, and tails from as many draws of 500 groups on both sides."""
    exact, found = both
    errors, widths, places, chances = [], [], [], []
    for a, b in pairs(exact.ranking, found.ranking):
        errors.append(b.all.error / a.all.error - 1)
        widths += [(b.high - b.value) / (a.high - a.value) - 1]
        widths += [(b.value - b.low) / (a.value - a.low) - 1]
        places += [b.first_place - a.first_place, b.last_place - a.last_place]
        chances.append(b.p_best - a.p_best)
    before = np.subtract(found.ranking.pairwise, exact.ranking.pairwise)
    of_strata = [
        (q.high - q.low) / (p.high - p.low) - 1
        for a, b in zip(exact.strata.strata, found.strata.strata, strict=True)
        for p, q in zip(a.ranking.teachers, b.ranking.teachers, strict=True)
    ]
    errors, widths, places, chances, of_strata = map(
        np.abs, (errors, widths, places, chances, of_strata)
    )
    with capsys.disabled():
        print(
            f"\nstandard errors {off(errors, '.1%')}; halves of intervals {off(widths, '.1%')}, "
            f"intervals of strata {off(of_strata, '.1%')}; bounds on places {off(places, '.2f')}, "
            f"{(places == 0).mean():.0%} the same; P(best) {off(chances, '.3f')}, of pairs "
            f"{off(before, '.3f')}; best: {exact.ranking.best} and {found.ranking.best}"
        )
    assert rms(errors) < 0.02
    assert errors.max() < 0.06
    assert rms(widths) < 0.06
    assert widths.max() < 0.2
    assert rms(of_strata) < 0.1
    assert (places == 0).mean() > 0.7
    assert places.max() <= 2
    assert max(chances.max(), np.abs(before).max()) < 0.05


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def off(values: np.ndarray, form: str) -> str:
    return f"rms {rms(values):{form}}, at most {np.abs(values).max():{form}} off"


@pytest.mark.slow
def test_quartiles_are_those_of_a_sample_of_its_size(both, capsys):
    exact, found = both
    values, errors = values_of(exact.scored), []
    sizes = np.bincount(found.scored.teacher, minlength=len(found.scored.teachers))
    for b in found.ranking.teachers:
        t = exact.scored.teachers.index(b.teacher)
        own = np.sort(values[exact.scored.teacher == t])
        for share, seen in ((0.25, b.q25), (0.5, b.median), (0.75, b.q75)):
            error = np.sqrt(share * (1 - share) * (1 - SAMPLE / ROWS) / sizes[t])
            errors.append((np.searchsorted(own, seen) / len(own) - share) / error)
    with capsys.disabled():
        print(f"\nquartiles, in standard errors: {off(errors, '.2f')}")
    assert rms(errors) < 1.5
    assert np.abs(errors).max() < SURE


@pytest.mark.slow
def test_correlations_and_verdicts_are_those_of_a_sample_of_prompts(both, capsys):
    exact, found = both
    n_prompts = len(found.scored.prompts)
    length = [dataclasses.astuple(said.ranking.length) for said in both]
    signs = [[*said.ranking.degeneration.within_teachers.values()] for said in both]
    whole, sample = (np.array([*a, *filter(None, b)]) for a, b in zip(length, signs, strict=True))
    apart = (np.arctanh(sample) - np.arctanh(whole)) * np.sqrt(n_prompts)
    shares, within = [], []
    for p, q in zip(exact.outcome.teachers, found.outcome.teachers, strict=True):
        n = q.n_right + q.n_wrong
        error = np.sqrt(p.share_right * (1 - p.share_right) / n)
        shares.append((q.share_right - p.share_right) / error)
    for name in ("verdict", "length"):
        p, q = getattr(exact.outcome, name), getattr(found.outcome, name)
        within.append(abs(q.correlation - p.correlation) / ((q.high - q.low) / 2 / 1.96))
    with capsys.disabled():
        print(
            f"\nof {n_prompts:,} prompts, over sqrt(prompts): correlations {off(apart, '.2f')}; in "
            f"standard errors: within prompts {off(within, '.2f')}, shares of right answers "
            f"{off(shares, '.2f')}"
        )
    assert np.abs(apart).max() < SURE
    assert max(within) < SURE
    assert np.abs(shares).max() < SURE


@pytest.mark.slow
def test_a_comparison_is_of_a_sample_of_prompts(both, capsys):
    exact, found = both
    errors = {t.teacher: t.all.error for t in exact.ranking.teachers}
    places = {m.teacher: m for m in exact.compared.teachers}
    apart = []
    for move in found.compared.teachers:
        known = places[move.teacher]
        assert move.a.n_trajectories == known.a.n_trajectories
        error = errors[move.teacher] * np.sqrt(known.n_prompts / move.n_prompts)
        apart.append((move.a.value - known.a.value) / error)
    with capsys.disabled():
        print(f"\ncompare, in standard errors of values: {off(apart, '.2f')}")
    assert np.abs(apart).max() < SURE
