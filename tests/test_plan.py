"""How a corpus is read is said before anything is scored."""

import json

import pytest

from rsr_ray.corpus.plan import make_plan
from rsr_ray.corpus.reading import Reading
from rsr_ray.files.objects import InputObject

ROW = {"question": "2+2?", "answer": "4", "id": "p1", "meta": {"task": 1}, "model": "M", "cost": 3}
COLUMNS = {"prompt": "question", "response": "answer", "prompt_id": "meta.task"}


def plan_of(tmp_path, *places, columns=None, teacher=None):
    objects = []
    for place in places:
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {**ROW, "question": f"{len(objects)}+2?", "meta": {"task": len(objects)}}
        path.write_text(json.dumps(row) + "\n")
        objects.append(InputObject(uri=str(path), version="v", size=1))
    return make_plan(objects, None, Reading(teacher=teacher, columns=columns or COLUMNS))


def test_the_plan_says_what_is_read_as_what(tmp_path):
    plan = plan_of(tmp_path, "A/a.jsonl", "A/b.jsonl", "B/a.jsonl")
    assert plan.shape == "prompt + response"
    assert plan.columns == COLUMNS
    assert (plan.trajectory_id, plan.prompt_id) == ("column id", "column meta.task")
    assert plan.teachers == "A (2 shards), B (1 shard)"
    assert plan.not_read == ["model", "cost"]
    assert plan.notes == []


@pytest.mark.parametrize(
    ("places", "says"),
    [
        (
            ("QwQ/2026-11-24/a.jsonl", "R1/2026-11-24/a.jsonl"),
            "teacher 2026-11-24 looks like a date",
        ),
        (("flat/QwQ.jsonl", "flat/R1.jsonl"), "flat is the only teacher"),
    ],
)
def test_names_that_are_not_those_of_teachers_are_pointed_out(tmp_path, places, says):
    (note,) = plan_of(tmp_path, *places).notes
    assert note.startswith(says)
    for named in ({"columns": {**COLUMNS, "teacher": "model"}}, {"teacher": "M"}):
        assert plan_of(tmp_path, *places, **named).notes == []


def test_prompts_that_are_rendered_already_are_pointed_out(tmp_path):
    path = tmp_path / "A" / "a.jsonl"
    path.parent.mkdir()
    path.write_text(
        json.dumps({"prompt": "<|im_start|>user\n2+2?<|im_end|>", "response": "4"}) + "\n"
    )
    plan = make_plan([InputObject(uri=str(path), version="v", size=1)], None, Reading("T"))
    assert (
        "1 of the first 1 prompts contain a chat template's markers: use --render raw"
        in plan.notes[0]
    )


def notes_of(tmp_path, rows, place="A/a.jsonl", **reading):
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return make_plan(
        [InputObject(uri=str(path), version="v", size=1)], None, Reading(**reading)
    ).notes


def test_turns_that_are_not_trained_on_are_counted(tmp_path):
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!", "weight": 0}]
    turns += [
        {"role": "user", "content": "??"},
        {"role": "assistant", "content": "!!"},
    ] * 2  # more than are not trained on
    (note,) = notes_of(tmp_path, [{"messages": turns}] * 3, teacher="T")
    assert note.startswith("3 assistant turns of the first 3 rows are marked as not trained on")


def test_several_answers_of_a_folders_teacher_to_a_prompt_are_pointed_out(tmp_path):
    rows = [{"prompt": "2 + 2?", "response": answer} for answer in ("4", "four")]
    notes = notes_of(tmp_path, rows)
    assert any(
        note.startswith("teacher A, named by its path, has several answers to one prompt")
        for note in notes
    )
    assert not notes_of(
        tmp_path / "b",
        [row | {"sample": n} for n, row in enumerate(rows)],
        "A/a.jsonl",
        teacher_from="folder",
    )


def test_shards_that_a_rule_does_not_match_are_counted(tmp_path):
    (note,) = notes_of(
        tmp_path, [{"prompt": "?", "response": "!"}], teacher_from="{teacher}/*.parquet"
    )
    assert note == (
        "1 shards have no teacher, because --teacher-from {teacher}/*.parquet does not match "
        "their paths"
    )
