"""Rankings and changes as JSON: the keys that scripts and the records of nights rely on."""

import io
import json
from dataclasses import fields

import pytest
from rich.console import Console

from rsr_ray.decide.changes import Changes, Move, Newcomer
from rsr_ray.decide.naturalness import Naturalness, TeacherNaturalness, naturalness
from rsr_ray.decide.ranking import (
    LengthControl,
    OnAllPrompts,
    Ranking,
    TeacherPlace,
    rank_teachers,
)
from rsr_ray.metrics import RSR
from rsr_ray.report.terminal.ranking import print_ranking

from .test_rank import FOUR, rows_of, scored_of, with_steps

RANKING = """metric segment better confidence draws seed matched n_prompts n_prompts_all
    n_trajectories teachers best more_prompts pairwise length notes sentence degeneration"""
TEACHER = """teacher place value low high first_place last_place p_best won all n_trajectories
    mean_tokens mean median std q25 q75 degenerate cut_off"""


def made_of(case: str) -> Ranking:
    rows = {
        "matched": rows_of(1, 12, FOUR, missing=0.1, samples=2),
        "few prompts": rows_of(1, 3, FOUR),
        "one prompt": rows_of(1, 1, FOUR),  # of which no standard deviation is known
        "one teacher": rows_of(1, 12, {"a": 5.0}),
        "not matched": rows_of(1, 12, FOUR),
    }[case]
    if case == "not matched":
        rows.loc[rows.teacher == "c", "prompt"] += 100
    return rank_teachers(scored_of(rows), RSR)


CASES = ("matched", "few prompts", "one prompt", "one teacher", "not matched")


@pytest.mark.parametrize("case", CASES)
def test_the_keys_of_a_ranking_are_its_documented_fields_in_their_order(case):
    given = made_of(case).to_json()
    assert list(given) == RANKING.split() == [f.name for f in fields(Ranking)]
    for t in given["teachers"]:
        assert list(t) == TEACHER.split() == [f.name for f in fields(TeacherPlace)]
        assert list(t["all"]) == [f.name for f in fields(OnAllPrompts)]
    assert list(given["teachers"][0]["all"]) == ["value", "low", "high", "error", "n_prompts"]
    assert list(given["length"]) == ["spearman", "within_teachers"]
    assert list(given["length"]) == [f.name for f in fields(LengthControl)]


@pytest.mark.parametrize("case", CASES)
def test_a_ranking_is_read_back_as_it_was(case):
    ranking = made_of(case)
    text = json.dumps(ranking.to_json(), allow_nan=False)
    assert Ranking.from_json(json.loads(text)) == ranking
    assert json.dumps(Ranking.from_json(json.loads(text)).to_json()) == text


def test_a_ranking_of_an_earlier_version_can_be_read_and_printed():
    """It has no bounds on places, and what is no longer told."""
    stored = json.loads(json.dumps(made_of("matched").to_json()))
    del stored["best"], stored["more_prompts"]
    for t in stored["teachers"]:
        del t["first_place"], t["last_place"], t["all"]["error"]
    stored |= {"gaps": [], "curve": [], "settled": None}
    stored["length"]["quarters"] = []
    ranking = Ranking.from_json(stored)
    assert (ranking.best, ranking.more_prompts) == ([], None)
    assert {(t.first_place, t.last_place, t.all.error) for t in ranking.teachers} == {(None,) * 3}
    out = io.StringIO()
    print_ranking(ranking, [], "s", Console(file=out, width=120))
    assert stored["sentence"] in " ".join(out.getvalue().split())


def test_the_keys_of_naturalness():
    found = naturalness(with_steps(rows_of(7, 20, {"a": 5.0, "b": 6.0})))
    given = found.to_json()
    assert list(given) == [f.name for f in fields(Naturalness)]
    assert list(given) == ["matched", "n_prompts", "teachers", "notes"]
    assert [list(t) for t in given["teachers"]] == [["teacher", "local", "global"]] * 2
    assert [TeacherNaturalness(*t.values()) for t in given["teachers"]] == found.teachers


def test_changes_are_read_back_as_they_were_and_have_their_documented_keys():
    changes = Changes(
        new_trajectories={"A": 2},
        new_teachers=[Newcomer("N", 2, of=3, rsr=1.0), Newcomer("Z", None, of=3, rsr=None)],
        gone_teachers=["G"],
        moved=[Move("A", was=1, now=3)],
        unsure=[Move("B", was=3, now=1)],
        new_rejects={"not_text": 1},
    )
    given = changes.to_json()
    assert list(given) == [f.name for f in fields(Changes)]
    assert given["new_teachers"][0] == {"teacher": "N", "place": 2, "of": 3, "rsr": 1.0}
    assert given["moved"] == [{"teacher": "A", "from": 1, "to": 3}]
    assert Changes.from_json(json.loads(json.dumps(given))) == changes
    del given["unsure"]  # of an earlier version
    assert Changes.from_json(given).unsure == []
