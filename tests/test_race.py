"""What races: the matched prompts of a corpus; and what a person reads of a race."""

import dataclasses
import io

import pyarrow as pa
import pytest
from rich.console import Console

from rsr_ray.config.load import load_config
from rsr_ray.config.race import RaceConfig
from rsr_ray.config.score import ScoreConfig
from rsr_ray.errors import UserError, safe
from rsr_ray.files.objects import InputObject
from rsr_ray.race.answer import (
    FullCost,
    Leader,
    Measured,
    RaceAnswer,
    Round,
    Spent,
    Taken,
    TeacherStanding,
)
from rsr_ray.race.course import Course
from rsr_ray.race.matched import INDEX, Matched
from rsr_ray.race.race import _find_race, race_id
from rsr_ray.report.terminal.race import print_race, race_answer, race_line
from rsr_ray.run.cluster import Cluster
from rsr_ray.schema import SCORES
from rsr_ray.store.beside import Beside
from rsr_ray.store.store import Store
from rsr_ray.store.units import unit_name

from .test_report import HOSTILE

GIVEN = {"corpus": ("c",), "student": "hub/student-1", "store": "s"}
OPTIONS = {"teachers", "by", "confidence", "margin", "budget", "first_round", "seed"} | {
    "keep_degenerate"
}


def index(*rows: tuple) -> pa.Table:
    """INDEX rows of (teacher, prompt, id, reject reason)."""
    names = ("teacher", "prompt_id", "trajectory_id", "reject_reason")
    given = [
        dict(zip(names, row, strict=False)) | {"object": 0, "source_row": n, "n_chars": 10}
        for n, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(given, schema=INDEX)


def test_prompts_that_every_teacher_answered():
    rows = index(
        ("A", "p", "1"), ("B", "p", "1"), ("A", "q", "2"), ("A", "r", "3"), ("B", "r", "3"),
        ("B", "r", "4"), ("B", "r", "4"), ("B", "q", "5", "not_text"),
        (None, "q", "6", "no_teacher"), ("A", "p", "3"),
    )  # fmt: skip
    matched = Matched.of(rows, (), seed=0)
    assert matched.teachers == ["A", "B"]
    assert sorted(matched.prompts) == ["p", "r"]
    # q has no answer of B that can be read; the second (B, 4) and the second (A, 3) repeat an id.
    kept = {
        (row["teacher"], row["prompt_id"], row["trajectory_id"]) for row in matched.rows.to_pylist()
    }
    assert kept == {
        ("A", "p", "1"),
        ("B", "p", "1"),
        ("A", "r", "3"),
        ("B", "r", "3"),
        ("B", "r", "4"),
    }
    assert matched.rows.num_rows == len(kept)
    assert matched.n_unreadable == 2
    for row in matched.rows.to_pylist():
        assert matched.prompts[row["p"]] == row["prompt_id"]
        assert matched.teachers[row["t"]] == row["teacher"]


def test_the_order_of_prompts_is_the_seeds_alone():
    rows = [(teacher, f"p{n}", f"{n}") for n in range(50) for teacher in "AB"]
    orders = [
        tuple(Matched.of(index(*some), (), seed).prompts)
        for some, seed in ((rows, 0), (rows[::-1], 0), (rows, 1))
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])
    fewer = Matched.of(index(*rows[:60]), (), 0).prompts
    assert fewer == [name for name in orders[0] if name in fewer], (
        "another corpus changes no prompt's place among the others"
    )


def test_teachers_that_share_no_prompt_are_told_which_do():
    rows = index(
        ("A", "p", "1"),
        ("B", "p", "2"),
        ("C", "q", "3"),
        ("D", "q", "4"),
        ("D", "r", "5"),
        ("C", "r", "6"),
        ("E", "s", "7"),
    )
    with pytest.raises(UserError, match=r"by all 5 teachers: .*--teachers.*C D \(2\); A B \(1\)"):
        Matched.of(rows, (), 0)
    assert Matched.of(rows, ("C", "D"), 0).teachers == ["C", "D"]
    with pytest.raises(UserError, match="no two of them share a prompt"):
        Matched.of(rows, ("A", "C"), 0)
    with pytest.raises(UserError, match="--teachers X: not in the corpus; teachers: A, B, C, D, E"):
        Matched.of(rows, ("A", "X"), 0)
    with pytest.raises(UserError, match="at least two teachers; the corpus has A"):
        Matched.of(index(("A", "p", "1")), (), 0)


def test_a_race_is_known_by_what_decides_its_course():
    objects = [InputObject(uri="c/a.jsonl", version="1", size=1)]
    config = RaceConfig(**GIVEN)

    def name(objects=objects, fingerprint="f", **changes):
        return race_id(dataclasses.replace(config, **changes), objects, fingerprint)

    same = {name(), name(budget=0.3), name(replicas=5), name(unit_rows=3), name(store="elsewhere")}
    assert name(teachers=("a", "b")) == name(teachers=("b", "a"))
    other = [
        name(margin=0.02),
        name(seed=1),
        name(by="mean_rank"),
        name(confidence=0.9),
        name(first_round=50),
        name(teachers=("a", "b")),
    ]
    other += [name(fingerprint="g"), name(objects=[dataclasses.replace(objects[0], version="2")])]
    assert len(same) == 1
    assert len({*same, *other}) == 1 + len(other)


# --- what the store holds already------------------------------------------------------------------

SHARD = InputObject(uri="c/a.jsonl", version="1" * 12, size=1)
RANKS = {"A": 300, "B": 200}  # sum of ranks of each answer; of each 100 tokens, surprisal 1 nat


def put_scores(store: Store, rows: list[dict], obj: InputObject = SHARD, start: int = 0) -> None:
    """A unit that holds rows of the object, given as values of SCORES."""
    unit = {
        "key": obj.key,
        "version": obj.version,
        "start": start,
        "stop": start + len(rows),
        "last": False,
    }
    table = pa.Table.from_pylist(
        [{"source": obj.uri, "source_row": start + n, **row} for n, row in enumerate(rows)], SCORES
    )
    store.write_scores("f", unit_name(unit), table)


def score_rows(rows: pa.Table, **changes) -> list[dict]:
    """Score rows of INDEX rows."""
    known = [
        {name: row[name] for name in ("trajectory_id", "prompt_id", "teacher")}
        for row in rows.to_pylist()
    ]
    return [
        row
        | {
            "n_tokens": 100,
            "n_prompt_tokens": 7,
            "rank_sum": RANKS[row["teacher"]] + n % 3,
            "surprisal_sum": 100.0,
        }
        | changes
        for n, row in enumerate(known)
    ]


def begun(tmp_path, given: pa.Table, **changes) -> tuple[Course, Store]:
    """A race by these INDEX rows, and the store it is a race of, which holds the scores that the
    test put there before.
    """
    store = Store(str(tmp_path), "m", None)
    own = Store(f"{tmp_path}/races/0", "m", None)
    course = Course(
        RaceConfig(**(GIVEN | {"store": str(tmp_path), "first_round": 20} | changes)),
        [SHARD],
        Matched.of(given, (), 0),
        own,
        "f",
        1,
        Cluster(None),
    )
    course.take_from(store, "f", store.units().get("f", []))
    return course, store


def test_degenerate_answers_are_left_out_and_counted_unless_they_are_to_be_kept(tmp_path):
    """B is better with its loops, which are half of its answers, and worse without them."""
    given = index(*((teacher, f"p{n}", f"{teacher}{n}") for n in range(60) for teacher in "AB"))
    loop = {"repeated_ngrams": 0.9, "longest_repeat": 90, "rank_sum": 20}
    worse = {"rank_sum": 350}
    clean = {"repeated_ngrams": 0.0, "longest_repeat": 3, "cut_off": False}
    rows = [
        row | ({} if row["teacher"] == "A" else loop if row["prompt_id"] < "p30" else worse)
        for row in score_rows(given, **clean)
    ]
    n_loops = sum(row["longest_repeat"] == 90 for row in rows)
    put_scores(Store(str(tmp_path), "m", None), rows)
    without, whole = ("A", n_loops, 60 - n_loops), ("B", 0, 60)
    for kept, (winner, left_out, compared) in ((False, without), (True, whole)):
        course, _ = begun(tmp_path, given, keep_degenerate=kept, first_round=60)
        while not course.state.finished:
            course.run_round()
        answer = course.answer("0")
        assert (answer.winner, answer.degenerate) == (winner, left_out)
        assert answer.rounds[-1].prompts_compared == compared
        first_line = f"(lower is better); {left_out} degenerate left out (--keep-degenerate keeps"
        assert (first_line in said(answer).splitlines()[0]) is (not kept)


def test_what_the_store_has_scored_costs_nothing(tmp_path):
    """Nothing of it needs a student, a Ray or a shard: there is none here."""
    given = index(*((teacher, f"p{n}", f"{teacher}{n}") for n in range(60) for teacher in "AB"))
    store = Store(str(tmp_path), "m", None)
    put_scores(store, score_rows(given)[:70])
    put_scores(store, score_rows(given)[70:], start=70)
    course, _ = begun(tmp_path, given)
    while not course.state.finished:
        course.run_round()
    answer = course.answer("0")
    assert (answer.winner, answer.rounds[-1].run_id) == ("B", None)
    assert answer.spent == Spent(0.0, 0, 0, 0, 0)
    assert answer.taken_from_store == Taken(40 / 120, 40), "the 20 prompts of the only round"
    rows = [
        row
        for row, (_, prompt) in zip(
            score_rows(given),
            zip(given["teacher"], given["prompt_id"].to_pylist(), strict=True),
            strict=True,
        )
        if row["teacher"] == "B" and prompt in course.matched.prompts[:20]
    ]
    assert course.measured("B").value == pytest.approx(
        sum(row["rank_sum"] for row in rows) / 20 / 100
    )
    assert not list(tmp_path.glob("races/**/*"))
    text = said(answer)
    assert "0.0% of scoring all 60 matched prompts: 0 of 120 trajectories; 0 tokens scored" in text
    assert "reused    40 trajectories already in the store, 33.3% of that cost" in text


def test_only_the_same_row_of_the_same_shard_is_taken(tmp_path):
    given = index(*((teacher, f"p{n}", f"{teacher}{n}") for n in range(30) for teacher in "AB"))
    store, rows = Store(str(tmp_path), "m", None), score_rows(given)
    # as it was before, or will be
    put_scores(store, rows, dataclasses.replace(SHARD, version="2" * 12))
    # another with the same ids
    put_scores(store, rows, dataclasses.replace(SHARD, uri="c/b.jsonl"))
    put_scores(
        store,
        [
            *rows[:3],
            rows[3] | {"trajectory_id": "other"},
            rows[4] | {"teacher": "A", "trajectory_id": "B4"},
        ],
    )
    course, _ = begun(tmp_path, given)
    taken = course.matched.rows.filter(pa.array(course.taken))["trajectory_id"].to_pylist()
    assert sorted(taken) == ["A0", "A1", "B0"]
    of_the_first_round = [
        prompt for prompt in ("p0", "p0", "p1") if prompt in course.matched.prompts[:20]
    ]
    assert course.next_cost_share == pytest.approx((40 - len(of_the_first_round)) / 60)


def test_a_row_that_the_store_rejected_is_a_reject_of_the_race(tmp_path):
    given = index(*((teacher, f"p{n}", f"{teacher}{n}") for n in range(20) for teacher in "AB"))
    rows = score_rows(given)
    out = dict.fromkeys(("n_tokens", "n_prompt_tokens", "rank_sum", "surprisal_sum")) | {
        "reject_reason": "over_length"
    }
    put_scores(
        Store(str(tmp_path), "m", None),
        [row | (out if n == 5 else {}) for n, row in enumerate(rows)],
    )
    course, _ = begun(tmp_path, given)
    entry = course.run_round()
    answer = course.answer("0")
    assert (entry.prompts, entry.prompts_compared) == (20, 19)
    assert answer.rejected == {"over_length": 1}
    assert not answer.decided
    assert answer.taken_from_store.trajectories == 40


def test_what_the_race_has_scored_itself_stays_its_cost(tmp_path):
    """Though the store has it as well meanwhile: the record of a race is the same whenever it is
    asked for.
    """
    given = index(*((teacher, f"p{n}", f"{teacher}{n}") for n in range(20) for teacher in "AB"))
    part = InputObject(
        uri=f"{tmp_path}/races/0/round-01/teacher=A/part-0.jsonl", version="3" * 12, size=1
    )
    put_scores(Store(f"{tmp_path}/races/0", "m", None), score_rows(given)[::2], part)
    put_scores(Store(str(tmp_path), "m", None), score_rows(given, rank_sum=9))
    course, _ = begun(tmp_path, given)
    course.run_round()
    answer = course.answer("0")
    assert (answer.spent.trajectories, answer.taken_from_store.trajectories) == (20, 20)
    assert answer.spent.scored_tokens == 2000
    assert course.measured("A").value > 3 > course.measured("B").value


def test_the_options(tmp_path):
    assert {f.name for f in dataclasses.fields(RaceConfig)} - {
        f.name for f in dataclasses.fields(ScoreConfig)
    } == OPTIONS
    (tmp_path / "race.yaml").write_text("teachers: [a, b]\nbudget: 1\nmargin: 0.02\n")
    config = load_config(RaceConfig, str(tmp_path / "race.yaml"), GIVEN | {"margin": 0.0})
    assert (config.teachers, config.budget, config.margin, config.student_name) == (
        ("a", "b"),
        1.0,
        0.0,
        "student-1",
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"by": "lark"}, "--by lark: not a metric to race on; use rsr, "),
        ({"by": "local_naturalness"}, "--by local_naturalness"),
        ({"by": "n_tokens"}, "--by n_tokens"),
        ({"by": "speed"}, "--by speed"),
        ({"confidence": 1.0}, "--confidence 1"),
        ({"margin": -0.1}, "--margin -0.1"),
        ({"budget": 0.0}, "--budget 0"),
        ({"budget": 1.5}, "--budget 1.5"),
        ({"first_round": 5}, "--first-round 5: must be at least 20"),
        ({"teachers": ("a",)}, "--teachers a: a race needs at least two"),
        ({"teachers": ("a", "a")}, "--teachers a: a race needs at least two"),
        ({"dtype": "int8"}, "--dtype int8"),
    ],
)
def test_wrong_values_are_named(changes, says):
    with pytest.raises(UserError, match=says):
        RaceConfig(**(GIVEN | changes))


MEASURED = Measured(value=2.5, low=2.4, high=2.6, exact=False, n_prompts=20, round=1)
ROUND = Round(
    round=1,
    run_id=None,
    prompts=20,
    of_prompts=60,
    prompts_compared=20,
    by="rsr",
    leader=Leader("A", MEASURED),
    alive=["A"],
    left={"B": "worse than A"},
    cost_share=0.333,
)
ANSWER = RaceAnswer(
    race_id="0",
    student="s",
    by="rsr",
    better="lower",
    decided=True,
    winner="A",
    reason="no other teacher can still win",
    next_cost_share=None,
    alive=["A"],
    confidence=0.95,
    margin=0.01,
    budget=1.0,
    teachers=[
        TeacherStanding("A", MEASURED, None, None),
        TeacherStanding("B", MEASURED, 1, "worse than A"),
    ],
    rounds=[ROUND],
    matched_prompts=60,
    unreadable_rows=0,
    full=FullCost(trajectories=120, chars=1200),
    spent=Spent(
        cost_share=0.333, trajectories=40, chars=400, scored_tokens=4000, prompt_tokens=100
    ),
    taken_from_store=Taken(cost_share=0.0, trajectories=0),
    rejected={},
    degenerate=0,
    config=RaceConfig(**GIVEN),
    fingerprint="f",
)


def answered(**changes) -> RaceAnswer:
    return dataclasses.replace(ANSWER, **changes)


def said(answer: RaceAnswer) -> str:
    out = io.StringIO()
    print_race(answer, "/store", Console(file=out, width=200))
    return out.getvalue()


def test_the_answer_as_json_has_what_earlier_versions_had():
    given = ANSWER.to_json()
    assert " ".join(given) == (
        "race_id student by better decided winner reason next_cost_share alive confidence margin "
        "budget teachers rounds matched_prompts unreadable_rows full spent taken_from_store "
        "rejected degenerate config fingerprint"
    )
    measured = {"value": 2.5, "low": 2.4, "high": 2.6, "exact": False, "n_prompts": 20, "round": 1}
    assert given["teachers"][1] == {
        "teacher": "B",
        **measured,
        "left_after_round": 1,
        "why": "worse than A",
    }
    assert given["rounds"][0]["leader"] == {"teacher": "A", **measured}
    unknown = TeacherStanding("C", None, 1, "none of its answers").to_json()
    assert [*unknown] == ["teacher", "left_after_round", "why"]


def test_the_answer_in_words():
    assert race_answer(answered()).startswith(
        "A is best, or within 1.00% of the best, on these 60 prompts (95%): no other"
    )
    assert race_answer(answered(margin=0.0)).startswith(
        "A is best on these 60 prompts (95%): no other"
    )
    undecided = answered(
        decided=False,
        winner=None,
        alive=["A", "B"],
        reason="the next round would exceed the budget",
        next_cost_share=0.4567,
    )
    assert race_answer(undecided) == (
        "Not decided: the next round would exceed the budget. 2 teachers could still win: A, B; "
        "the next round would raise the cost to 45.7%: rerun with --budget 0.46 or more to continue"
    )
    whole = answered(
        rounds=[dataclasses.replace(ROUND, prompts=60, prompts_compared=60)],
        reason="all 60 prompts are scored",
    )
    assert race_answer(whole) == "A is best on these 60 prompts: all 60 prompts are scored"
    holes = answered(
        rounds=[dataclasses.replace(ROUND, prompts=60, prompts_compared=41)],
        reason="every prompt was tried",
    )
    assert race_answer(holes) == (
        "A is best on the 41 of 60 prompts with a score of every remaining teacher: every "
        "prompt was tried"
    )
    alone = answered(decided=False, winner=None, alive=["A"], reason="3 of 60 prompts")
    assert race_answer(alone) == "Not decided: 3 of 60 prompts. 1 teacher could still win: A"
    text = said(answered(rejected={"over_length": 3}, unreadable_rows=2))
    for part in (
        "lower is better",
        "33.3% of scoring all 60 matched prompts",
        "40 of 120",
        "worse than A",
        "rejected 3 over_length",
        "2 rows of the corpus",
    ):
        assert part in text
    assert "taken" not in text
    assert race_line(ROUND) == (
        "round 1: 20 of 60 prompts, 33.3% of the full cost; A leads, rsr 2.500 (2.400 to "
        "2.600); dropped: B; 1 teacher left"
    )


def test_nothing_could_be_scored():
    nobody = [TeacherStanding(name, None, 1, "none of its answers") for name in "AB"]
    text = said(
        answered(
            decided=False, winner=None, alive=[], reason="nothing could be scored", teachers=nobody
        )
    )
    assert "Not decided: nothing could be scored. No teacher is left" in text


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_cannot_steer_the_terminal(name):
    teacher = TeacherStanding(name, MEASURED, None, None)
    text = said(answered(teachers=[teacher], winner=name))
    line = race_line(dataclasses.replace(ROUND, leader=Leader(name, MEASURED), left={name: ""}))
    assert "\x1b" not in text + line
    assert "\n" not in line
    assert text.count(safe(name)) == 2


def test_a_race_that_an_earlier_version_began_with_token_scores_goes_on(tmp_path):
    """It was known by what it kept beside the scores too."""

    def hash_of(beside: Beside) -> str:
        return ("e" if beside else "f") * 16

    store = Store(str(tmp_path), "m", None)
    config = RaceConfig(**(GIVEN | {"store": str(tmp_path), "token_scores": True}))
    own, fingerprint = _find_race(config, store, [SHARD], hash_of)
    assert fingerprint == "f" * 16
    unit = unit_name({"key": SHARD.key, "version": "0" * 12, "start": 0, "stop": 1, "last": True})
    begun = Store(f"{tmp_path}/races/{race_id(config, [SHARD], 'e' * 16)}", "m", None)
    begun.write_scores("e" * 16, unit, SCORES.empty_table())
    own, fingerprint = _find_race(config, store, [SHARD], hash_of)
    assert (own.uri, fingerprint) == (begun.uri, "e" * 16)
    plain = dataclasses.replace(config, token_scores=False)
    assert _find_race(plain, store, [SHARD], hash_of)[1] == "f" * 16
