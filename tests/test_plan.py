"""How a corpus is read is said before anything is scored."""

import json

import pytest

from rsr_ray.objects import InputObject
from rsr_ray.plan import make_plan
from rsr_ray.reading import Reading

ROW = {"question": "2+2?", "answer": "4", "id": "p1", "meta": {"task": 1}, "model": "M", "cost": 3}
COLUMNS = {"prompt": "question", "response": "answer", "prompt_id": "meta.task"}


def plan_of(tmp_path, *places, columns=None, teacher=None):
    objects = []
    for place in places:
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(ROW) + "\n")
        objects.append(InputObject(uri=str(path), version="v", size=1))
    return make_plan(objects, None, Reading(teacher=teacher, columns=columns or COLUMNS))


def test_the_plan_says_what_is_read_as_what(tmp_path):
    plan = plan_of(tmp_path, "A/a.jsonl", "A/b.jsonl", "B/a.jsonl")
    assert plan.shape == "prompt + response"
    assert plan.columns == COLUMNS
    assert (plan.trajectory_id, plan.prompt_id) == ("column id", "column meta.task")
    assert plan.teachers == "A (2 shards), B (1 shards)"
    assert plan.not_read == ["model", "cost"]
    assert plan.notes == []


@pytest.mark.parametrize(
    ("places", "says"),
    [
        (("QwQ/2026-11-24/a.jsonl", "R1/2026-11-24/a.jsonl"), "2026-11-24 is taken for a teacher"),
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
    path.write_text(json.dumps({"prompt": "<|im_start|>user\n2+2?<|im_end|>", "response": "4"}) + "\n")
    plan = make_plan([InputObject(uri=str(path), version="v", size=1)], None, Reading("T"))
    assert "1 of the first prompts in column prompt hold" in plan.notes[0]
