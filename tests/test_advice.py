"""What is advised is what the ranking bears out, and no more."""

import dataclasses

import numpy as np
import pytest

from rsr_ray.decide.advice import advice, verdict
from rsr_ray.decide.ranking import rank_teachers
from rsr_ray.metrics import RSR

from .test_degeneration import planted


def ranked(means, *, n=60, seed=0, flagged=None, gain=0.5, tokens=None):
    flagged = np.zeros((n, len(means)), bool) if flagged is None else flagged
    ranking = rank_teachers(planted(seed, n, means, flagged, gain), RSR)
    lengths = tokens or {}
    teachers = [
        dataclasses.replace(t, mean_tokens=lengths.get(t.teacher, t.mean_tokens))
        for t in ranking.teachers
    ]
    return dataclasses.replace(ranking, teachers=teachers)


def test_a_teacher_that_is_surely_the_best_is_advised_alone():
    assert advice(ranked([4.0, 6.0, 8.0])) == "Train on t0."


@pytest.mark.parametrize("seed", range(8))
def test_it_names_the_first_and_counts_all_that_may_be_the_best(seed):
    ranking = ranked([6.0, 6.0, 6.1, 6.2, 6.3, 9.0], n=20, seed=seed)
    said = advice(ranking)
    first, *tied = ranking.best
    assert said.startswith(f"Train on {first}.")
    if len(tied) > 3:
        assert f"{len(tied)} other teachers are statistically tied" in said
    for name in tied if len(tied) <= 3 else []:
        assert name in said
    assert "t5" not in said


def test_a_tied_teacher_with_shorter_answers_is_said_to_have_them():
    ranking = ranked([6.0, 6.0, 9.0], n=20)
    first, tied = ranking.best
    long = ranked([6.0, 6.0, 9.0], n=20, tokens={first: 300.0, tied: 99.0})
    says = f"Train on {first}. {tied} is statistically tied with it"
    assert advice(long) == f"{says}, and its answers are 33% as long."
    alike = ranked([6.0, 6.0, 9.0], n=20, tokens={first: 100.0, tied: 90.0})
    assert advice(alike) == f"{says}."
    three = ranked([6.0, 6.0, 6.0], n=20)
    first, second, third = three.best
    three = ranked([6.0] * 3, n=20, tokens={first: 100.0, second: 70.0, third: 40.0})
    assert advice(three) == (
        f"Train on {first}. {second} and {third} are statistically tied with it; the shortest "
        f"answers are {third}'s, 40% as long."
    )


def test_nothing_is_advised_where_nothing_is_sure():
    assert advice(ranked([4.0, 6.0], n=3)) is None
    assert advice(ranked([4.0])) is None


def test_no_teacher_is_advised_for_its_loops():
    loops = np.zeros((60, 3), bool)
    loops[:20, 0] = True
    assert advice(ranked([7.0, 6.0, 9.0], flagged=loops, gain=0.2)) == "Train on t1."
    most = np.zeros((60, 3), bool)
    most[:50, 1] = True
    assert "t1" not in advice(ranked([6.0, 6.0, 9.0], flagged=most, gain=1.001))
    assert advice(ranked([4.0, 6.0], flagged=np.ones((60, 2), bool))) is None


def test_how_sure_it_is_is_said_of_the_ranking_that_is_advised():
    assert verdict(ranked([4.0, 6.0, 8.0])) == "Clear winner"
    assert verdict(ranked([6.0, 6.0, 9.0], n=20)) == "Statistical tie"
    assert verdict(ranked([4.0, 6.0], n=3)) == verdict(ranked([4.0])) == "No confidence estimate"
    loops = np.zeros((60, 3), bool)
    loops[:20, 0] = True
    assert verdict(ranked([7.0, 6.0, 9.0], flagged=loops, gain=0.2)) == "Clear winner"
    unclear = verdict(ranked([4.0, 6.0], flagged=np.ones((60, 2), bool)))
    assert unclear.startswith("Unclear: degenerate trajectories")
