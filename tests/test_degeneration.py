"""What degenerate trajectories do to a ranking, and how often its warning is right."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest

from rsr_ray.decide.degeneration import warning
from rsr_ray.decide.ranking import Ranking, rank_teachers
from rsr_ray.decide.scored import Scored
from rsr_ray.guard import JUDGED_BY, UNCHECKED
from rsr_ray.metrics import REGISTRY

from .conftest import few

RSR = REGISTRY["rsr"]
T = 200  # tokens of a trajectory


def planted(
    seed: int, n_prompts: int, ranks: list[float], flagged: np.ndarray, gain: float = 1.0
) -> Scored:
    """An answer of each teacher to each prompt: log-normal ranks about `ranks` and surprisals about
    2 nats a token, difficult prompts being difficult for all. `flagged` bool [P, T] loop, and a
    loop's ranks are `gain` times what they would be.
    """
    rng = np.random.default_rng(seed)
    shape = n_prompts, len(ranks)
    shared = rng.normal(0, 0.3, (n_prompts, 1))
    rank = np.array(ranks) * np.exp(shared + rng.normal(0, 0.2, shape)) * np.where(flagged, gain, 1)
    surprisal = 2 * np.exp(0.4 * shared + rng.normal(0, 0.1, shape))
    columns = dict.fromkeys(JUDGED_BY, np.zeros(shape))
    columns |= {"repeated_ngrams": flagged.astype(float), "n_tokens": np.full(shape, T)}
    columns |= {"rank_sum": rank * T, "surprisal_sum": surprisal * T}
    prompt, teacher = np.indices(shape)
    return Scored(
        [f"t{t}" for t in range(len(ranks))],
        pa.array([f"p{p:05}" for p in range(n_prompts)]),
        teacher.ravel(),
        prompt.ravel(),
        {name: values.ravel() for name, values in columns.items()},
        pa.table({"trajectory_id": range(teacher.size)}),
    )


def looping(seed: int, n_prompts: int, n_teachers: int, shares: list[float]) -> np.ndarray:
    return np.random.default_rng([seed, 1]).random((n_prompts, n_teachers)) < np.array(shares)


def test_a_winner_by_loops_gets_the_warning_and_loses_its_place_beside():
    flagged = looping(0, 60, 3, [0.4, 0.0, 0.02])
    scored = planted(0, 60, [7.5, 5.5, 9.0], flagged, gain=0.1)
    ranking = rank_teachers(scored, RSR)
    n = int(flagged[:, 0].sum())
    assert ranking.teachers[0].teacher == "t0"
    assert ranking.sentence.endswith(
        f"Warning: t0 is first only because its degenerate trajectories ({n} of 60) score better "
        "than its others; without them t1 is first."
    )
    found = ranking.degeneration
    assert found.n_degenerate == flagged.sum()
    assert [t.teacher for t in found.without.teachers] == ["t1", "t0", "t2"]
    assert found.within_teachers["degenerate"] < -0.5
    assert found.within_teachers["cut_off"] is None
    assert {t.teacher: t.degenerate for t in ranking.teachers} == pytest.approx(
        {"t0": n / 60, "t1": 0.0, "t2": flagged[:, 2].mean()}
    )
    assert f"{flagged.sum()} degenerate trajectories; without them: t1 is best" in ranking.notes[0]


def test_the_ranking_without_is_that_of_a_corpus_without_them():
    flagged = looping(1, 40, 3, [0.4, 0.1, 0.1])
    scored = planted(1, 40, [6.0, 5.5, 7.0], flagged, gain=0.4)
    without = rank_teachers(scored, RSR).degeneration.without
    clean = rank_teachers(scored.where(~flagged.ravel()), RSR)
    assert clean.degeneration.without is None
    assert clean.degeneration.note is None
    assert dataclasses.replace(clean, degeneration=None) == without
    whole = flagged.any(1)
    for t in without.teachers:
        mine = (scored.teacher == int(t.teacher[1:])) & ~whole[scored.prompt]
        rank, surprisal = (scored.columns[name][mine] for name in ("rank_sum", "surprisal_sum"))
        assert t.value == pytest.approx(rank.mean() / surprisal.mean())


def test_a_winner_that_loops_and_wins_without_loops_gets_no_warning():
    flagged = looping(2, 60, 3, [0.3, 0.0, 0.0])
    ranking = rank_teachers(planted(2, 60, [4.0, 5.5, 7.0], flagged, gain=0.4), RSR)
    assert ranking.degeneration.warning is None
    assert "Warning" not in ranking.sentence
    assert [t.teacher for t in ranking.degeneration.without.teachers] == ["t0", "t1", "t2"]


def test_a_teacher_all_of_whose_trajectories_loop_has_no_place_without():
    flagged = np.zeros((40, 3), bool)
    flagged[:, 0] = True
    ranking = rank_teachers(planted(3, 40, [6.0, 5.5, 7.0], flagged, gain=0.4), RSR)
    assert ranking.sentence.endswith(
        "Warning: 40 of 40 trajectories of t0 are degenerate; without it t1 is first."
    )
    assert [t.teacher for t in ranking.degeneration.without.teachers] == ["t1", "t2"]


def test_a_teacher_most_of_whose_trajectories_loop_takes_no_prompts_from_the_others():
    flagged = np.zeros((40, 3), bool)
    flagged[3:, 2] = True
    scored = planted(3, 40, [6.0, 5.5, 7.0], flagged, gain=0.9)
    ranking = rank_teachers(scored, RSR)
    found = ranking.degeneration
    assert found.left_out == ["t2"]
    assert found.without.n_prompts == 40
    assert [t.teacher for t in found.without.teachers] == ["t1", "t0"]
    alone = rank_teachers(scored.only(["t0", "t1"]), RSR).teachers
    assert [(t.value, t.low) for t in found.without.teachers] == [(t.value, t.low) for t in alone]
    assert "; without them and t2, mostly degenerate: t1 is best" in found.note


def test_trajectories_that_all_loop_have_no_ranking_without():
    found = rank_teachers(planted(3, 9, [6.0, 5.5], np.ones((9, 2), bool)), RSR).degeneration
    assert found.without is None
    assert found.left_out == ["t0", "t1"]
    assert found.note == "18 degenerate trajectories: most trajectories of every teacher"


def test_where_nothing_is_known_a_note_says_so_or_nothing_was_asked():
    scored = planted(4, 20, [6.0, 5.5], np.zeros((20, 2), bool))
    columns = scored.columns | dict.fromkeys(set(JUDGED_BY) - {"n_tokens"}, np.full(40, np.nan))
    not_read = {name: columns[name] for name in RSR.columns}
    for some, notes in ((columns, [UNCHECKED]), (not_read, [])):
        ranking = rank_teachers(dataclasses.replace(scored, columns=some), RSR)
        assert ranking.degeneration is None
        assert ranking.teachers[0].degenerate is None
        assert ranking.notes == notes


def test_rows_stored_without_the_columns_are_not_called_degenerate():
    """What is known of them is whether the corpus says that they are cut off."""
    scored = planted(4, 20, [6.0, 5.5], np.zeros((20, 2), bool))
    columns = scored.columns | dict.fromkeys(set(JUDGED_BY) - {"n_tokens"}, np.full(40, np.nan))
    columns["complete"] = (np.arange(40) >= 4).astype(float)
    ranking = rank_teachers(dataclasses.replace(scored, columns=columns), RSR)
    assert ranking.degeneration is None
    assert [(t.degenerate, t.cut_off) for t in ranking.teachers] == [(None, 0.1), (None, 0.1)]


def test_a_ranking_survives_json():
    flagged = looping(0, 30, 3, [0.4, 0.0, 0.02])
    ranking = rank_teachers(planted(0, 30, [6.0, 5.5, 7.0], flagged, gain=0.4), RSR)
    again = Ranking.from_json(json.loads(json.dumps(ranking.to_json())))
    assert again == ranking
    old = ranking.to_json()
    del old["degeneration"]
    assert Ranking.from_json(old).degeneration is None


CELLS = [(n, t, share) for n in (20, 60) for t in (2, 6) for share in (0.1, 0.3)]


def first_of(scored: Scored) -> str:
    compared, _ = scored.matrices(RSR).compared()
    return scored.teachers[int(np.argmin(compared.values()))]


def warned(scored: Scored, flagged: np.ndarray) -> tuple[str, bool]:
    """The first teacher, and whether it is warned of."""
    bad = flagged.ravel()
    first, values = first_of(scored), RSR.values(scored.columns, scored.prompt)
    return first, bool(warning(scored, values, bad, first, first_of(scored.where(~bad))))


@pytest.mark.simulation
@pytest.mark.parametrize("on", ["any prompt", "the difficult prompts", "the easy prompts"])
def test_a_warning_is_rare_where_loops_score_as_their_teachers_others_do(on):
    """Equal teachers, whose flagged trajectories lie on any prompts, or on those where all teachers
    score worse, or better.
    """
    times, told = few(2000, 100), {}
    for n, t, share in CELLS:
        n_warned = 0
        for seed in range(times):
            flagged = looping(seed, n, t, [share] * t)
            scored = planted(seed, n, [6.0] * t, flagged)
            if on != "any prompt":
                ratio = scored.columns["rank_sum"] / scored.columns["surprisal_sum"]
                place = ratio.reshape(n, t).mean(1).argsort().argsort()
                some = place >= n / 2 if "difficult" in on else place < n / 2
                flagged = looping(seed, n, t, [2 * share] * t) & some[:, None]
            n_warned += warned(scored, flagged)[1]
        told[n, t, share] = n_warned / times
    print(f"warned of without reason, loops on {on}:", told)
    assert max(told.values()) <= 0.03 + 2.5 * (0.03 * 0.97 / times) ** 0.5


# How much better loops score -> the mean rank of t0's other trajectories, of which t1's is 6.
LOOPS = {0.2: 6.9, 0.5: 6.3, 0.7: 6.2}


@pytest.mark.simulation
def test_a_winner_by_loops_is_warned_of():
    """t0 is first, and without its loops it is not. How often it is warned of then, by how well
    loops score, prompts, and the share of loops.
    """
    times, told = few(2000, 100), {}
    for gain, others in LOOPS.items():
        for n, share in [(20, 0.1), (20, 0.3), (60, 0.1), (60, 0.3)]:
            by_loops = n_warned = 0
            for seed in range(times):
                flagged = looping(seed, n, 3, [share, 0.02, 0.02])
                scored = planted(seed, n, [others, 6.0, 8.0], flagged, gain)
                first, is_warned = warned(scored, flagged)
                if first == "t0" != first_of(scored.where(~flagged.ravel())):
                    by_loops += 1
                    n_warned += is_warned
            told[gain, n, share] = n_warned / by_loops
    print("first by loops, and warned of:", told)
    assert min(told[0.2, n, share] for n in (20, 60) for share in (0.1, 0.3)) > 0.7
    assert min(told[gain, 60, 0.3] for gain in LOOPS) > 0.85
