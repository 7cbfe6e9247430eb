"""How a row is read is part of what its scores are of."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsr_ray.config import ScoreConfig
from rsr_ray.errors import UserError
from rsr_ray.objects import InputObject
from rsr_ray.read import check_readable
from rsr_ray.units import is_superseded, settle_units, stale_units, unit_name

OBJECT = InputObject(uri="/corpus/a.jsonl", version="0123456789ab", size=1)


def reading(teacher=None, *columns):
    return ScoreConfig(corpus=("c",), student="s", store="t", teacher=teacher, columns=columns).reading


def units_of(*readings):
    unit = {"key": OBJECT.key, "start": 0, "stop": 2, "last": True}
    return [unit_name({**unit, "version": OBJECT.version + r}) for r in readings]


def test_a_mapping_put_right_is_scored_anew_and_a_second_teacher_stays():
    first, second = reading("gemini", "response=g", "prompt=q"), reading("deepseek", "prompt=q", "response=d")
    names = units_of("", first, second, reading("gemini", "prompt=q", "response=typo"), reading("gemni", "prompt=q", "response=g"))
    assert len(settle_units(names)[0]) == len(names)
    assert stale_units(names, [OBJECT], first) == [names[0], names[3], names[4]]
    assert stale_units(names[1:3], [OBJECT], first) == []
    assert stale_units(names[:1], [OBJECT], first) == []  # nothing goes before the new reading is whole


def test_the_order_of_options_is_no_other_reading():
    assert reading(None, "prompt=q", "response=g") == reading(None, "response=g", "prompt=q") != reading(None, "response=g")
    assert reading() == ""


teachers = st.sampled_from(["", "a", "b"])
columns = st.sampled_from([(), ("response=x",), ("response=y",)])


@given(teachers, columns, teachers, columns)
def test_only_another_named_teacher_with_other_columns_is_kept(t1, c1, t2, c2):
    kept = bool(t1 and t2 and t1 != t2 and c1 != c2)
    assert is_superseded(reading(t1 or None, *c1), reading(t2 or None, *c2)) == (not kept and (t1, c1) != (t2, c2))


def test_a_mapped_column_that_is_not_there_is_named_with_its_like(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "2+2?", "response": "4", "model": "M", "meta": {"task": 1}}) + "\n")
    obj = InputObject(uri=str(path), version="v", size=1)
    assert check_readable([obj], None, {"teacher": "model", "prompt_id": "meta.task"}) == "prompt + response"
    with pytest.raises(UserError, match="did you mean model"):
        check_readable([obj], None, {"teacher": "modle"})
