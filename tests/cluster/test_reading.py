"""How rows are read is part of what was scored, in whole runs."""

import json

import pyarrow.parquet as pq
import pytest

from rsr_ray.store.units import reading_of

from ..conftest import DEMO_STUDENT
from .conftest import rsr_ray, score

pytestmark = pytest.mark.usefixtures("local_ray", "here")

ROWS = [
    {
        "q": "2+2?",
        "g_thought": "Two and two.",
        "g": "It is 4.",
        "d_thought": "Count: 3, 4.",
        "d": "4, then.",
        "x": "no",
    },
    {
        "q": "3+3?",
        "g_thought": "Three twice.",
        "g": "It is 6.",
        "d_thought": "Count: 5, 6.",
        "d": "6, then.",
        "x": "no",
    },
]


def columns(answer, thought):
    return ("prompt=q", f"response={answer}", f"thinking={thought}")


def test_two_teachers_of_one_shard_in_two_runs_and_a_mapping_put_right(tmp_path):
    corpus, store = tmp_path / "corpus", tmp_path / "store"
    corpus.mkdir()
    (corpus / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    wrong = score(corpus, store, teacher="g", columns=columns("x", "g_thought"))
    right = score(corpus, store, teacher="g", columns=columns("g", "g_thought"))
    assert (right.n_scored, right.n_already) == (2, 0)
    assert right.teachers["n_trajectories"].to_pylist() == [2]
    assert right.teachers["rsr"].to_pylist() != wrong.teachers["rsr"].to_pylist()
    both = score(corpus, store, teacher="d", columns=columns("d", "d_thought"))
    assert {t["teacher"]: t["n_trajectories"] for t in both.teachers.to_pylist()} == {
        "g": 2,
        "d": 2,
    }
    assert any(
        "2 rows of these shards, scored earlier with another --teacher" in note
        for note in both.units.notes
    )
    again = score(corpus, store, teacher="d", columns=columns("d", "d_thought"))
    assert (again.n_scored, again.n_already) == (0, 2)
    assert again.record.plan["columns"]["response"] == "d"
    assert len({reading_of(path.name) for path in (store / "scores").rglob("*.parquet")}) == 2


def test_two_teachers_of_one_shard_in_one_run(tmp_path):
    corpus, store = tmp_path / "corpus", tmp_path / "store"
    corpus.mkdir()
    rows = [
        {
            "q": r["q"],
            "g_thought": r["g_thought"],
            "g_answer": r["g"],
            "d_thought": r["d_thought"],
            "d_answer": r["d"],
        }
        for r in ROWS
    ]
    (corpus / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    side_by_side = ("prompt=q", "response={teacher}_answer", "thinking={teacher}_thought")
    run = score(corpus, store, columns=side_by_side)
    assert (run.n_scored, run.n_already) == (4, 0)
    teachers = {t["teacher"]: t for t in run.teachers.to_pylist()}
    assert {name: (t["n_trajectories"], t["n_prompts"]) for name, t in teachers.items()} == {
        "g": (2, 2),
        "d": (2, 2),
    }
    apart = tmp_path / "apart"
    for teacher in ("g", "d"):
        two = score(
            corpus,
            apart,
            teacher=teacher,
            columns=("prompt=q", f"response={teacher}_answer", f"thinking={teacher}_thought"),
        )
    # Other rows share a batch: float32 sums differ in their last digits on some processors.
    expected = {name: t["rsr"] for name, t in teachers.items()}
    found = {t["teacher"]: t["rsr"] for t in two.teachers.to_pylist()}
    assert found == pytest.approx(expected, rel=1e-6)
    again = score(corpus, store, columns=side_by_side)
    assert (again.n_scored, again.n_already) == (0, 4)
    chosen = rsr_ray(
        "choose",
        "--store",
        store,
        "--student",
        "student",
        "--out",
        tmp_path / "out",
        "--columns",
        *side_by_side,
    )
    assert chosen.returncode == 0, chosen.stderr
    written = [
        json.loads(line)
        for path in (tmp_path / "out").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    written = written or [
        row
        for path in (tmp_path / "out").glob("*.parquet")
        for row in pq.read_table(path).to_pylist()
    ]
    answers = {
        (row["q"], row["rsr_ray"]["teacher"]): row["messages"][-1]["content"] for row in written
    }
    assert len(answers) == 2
    for (question, teacher), said in answers.items():
        (row,) = [row for row in rows if row["q"] == question]
        assert (
            said == f"<think>\n{row[f'{teacher}_thought']}\n</think>\n\n{row[f'{teacher}_answer']}"
        )


LAYOUTS = [
    (
        ("QwQ/2026-11-24/part-0.jsonl", "R1/2026-11-24/part-0.jsonl"),
        "folder:2",
        "teacher 2026-11-24 looks like a date",
    ),
    (("flat/QwQ.jsonl", "flat/R1.jsonl"), "file", "flat is the only teacher that the paths name"),
]


@pytest.mark.parametrize(("places", "rule", "doubt"), LAYOUTS)
def test_teachers_by_one_option_and_without_it_what_was_taken_for_them(
    tmp_path, places, rule, doubt
):
    for place in places:
        path = tmp_path / "corpus" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            "".join(
                json.dumps({"prompt": f"{n}+2?", "response": f"It is {n + 2}, says {place}."})
                + "\n"
                for n in range(3)
            )
        )
    options = ["--corpus", tmp_path / "corpus", "--student", DEMO_STUDENT]
    taken = rsr_ray("score", *options, "--store", tmp_path / "taken")
    assert taken.returncode == 0
    assert doubt in taken.stderr
    assert "--teacher-from" in taken.stderr
    right = rsr_ray("score", *options, "--store", tmp_path / "right", "--teacher-from", rule)
    assert right.returncode == 0
    assert "Teachers: QwQ (1 shard), R1 (1 shard)" in right.stderr
    assert doubt not in right.stderr
    table = pq.read_table(tmp_path / "right" / "teachers" / "student=student.parquet")
    assert sorted(table["teacher"].to_pylist()) == ["QwQ", "R1"]
    put_right = rsr_ray("score", *options, "--store", tmp_path / "taken", "--teacher-from", rule)
    assert "read 6 = scored 6 + rejected 0 + already scored 0" in put_right.stdout
    table = pq.read_table(tmp_path / "taken" / "teachers" / "student=student.parquet")
    assert sorted(table["teacher"].to_pylist()) == ["QwQ", "R1"]
