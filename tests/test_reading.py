"""How a row is read is part of what its scores are of."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsr_ray.config.score import ScoreConfig
from rsr_ray.corpus.canonical import canonical
from rsr_ray.corpus.first_rows import check_readable
from rsr_ray.corpus.plan import make_plan
from rsr_ray.corpus.reading import Reading, teacher_by_rule
from rsr_ray.corpus.rows import iter_trajectories
from rsr_ray.errors import UserError
from rsr_ray.files.objects import InputObject
from rsr_ray.store.units import is_superseded, settle_units, stale_units, unit_name

OBJECT = InputObject(uri="/corpus/a.jsonl", version="0123456789ab", size=1)


def reading(teacher=None, *columns):
    return ScoreConfig(
        corpus=("c",), student="s", store="t", teacher=teacher, columns=columns
    ).reading.label


def units_of(*readings):
    unit = {"key": OBJECT.key, "start": 0, "stop": 2, "last": True}
    return [unit_name({**unit, "version": OBJECT.version + r}) for r in readings]


def test_a_mapping_put_right_is_scored_anew_and_a_second_teacher_stays():
    first, second = (
        reading("gemini", "response=g", "prompt=q"),
        reading("deepseek", "prompt=q", "response=d"),
    )
    names = units_of(
        "",
        first,
        second,
        reading("gemini", "prompt=q", "response=typo"),
        reading("gemni", "prompt=q", "response=g"),
    )
    assert len(settle_units(names)[0]) == len(names)
    assert stale_units(names, [OBJECT], first) == [names[0], names[3], names[4]]
    assert stale_units(names[1:3], [OBJECT], first) == []
    # nothing goes before the new reading is whole
    assert stale_units(names[:1], [OBJECT], first) == []


def test_the_order_of_options_is_no_other_reading():
    assert (
        reading(None, "prompt=q", "response=g")
        == reading(None, "response=g", "prompt=q")
        != reading(None, "response=g")
    )
    assert reading() == ""


teachers = st.sampled_from(["", "a", "b"])
columns = st.sampled_from([(), ("response=x",), ("response=y",)])


@given(teachers, columns, teachers, columns)
def test_only_another_named_teacher_with_other_columns_is_kept(t1, c1, t2, c2):
    kept = bool(t1 and t2 and t1 != t2 and c1 != c2)
    assert is_superseded(reading(t1 or None, *c1), reading(t2 or None, *c2)) == (
        not kept and (t1, c1) != (t2, c2)
    )


def test_a_mapped_column_that_is_not_there_is_named_with_its_like(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        json.dumps({"prompt": "2+2?", "response": "4", "model": "M", "meta": {"task": 1}}) + "\n"
    )
    obj = InputObject(uri=str(path), version="v", size=1)
    assert (
        check_readable([obj], None, {"teacher": "model", "prompt_id": "meta.task"})
        == "prompt + response"
    )
    with pytest.raises(UserError, match="did you mean model"):
        check_readable([obj], None, {"teacher": "modle"})


@pytest.mark.parametrize(
    ("uri", "rule", "teacher"),
    [
        ("s3://b/QwQ/2026-11-24/part-0.jsonl", "folder:2", "QwQ"),
        ("s3://b/QwQ/2026-11-24/part-0.jsonl", "{teacher}/*/*.jsonl", "QwQ"),
        ("s3://b/QwQ/2026-11-24/part-0.jsonl", "{teacher}/2026-*/*", "QwQ"),
        ("s3://b/QwQ/2026-11-24/part-0.jsonl", "folder", "2026-11-24"),
        ("s3://b/QwQ/2026-11-24/part-0.jsonl", "{teacher}/*/*.parquet", None),
        ("/flat/QwQ-32B.jsonl.gz", "file", "QwQ-32B"),
        ("/flat/math_QwQ-32B_v2.jsonl", "math_{teacher}_v2.jsonl", "QwQ-32B"),
        ("/flat/org%2FQwQ.jsonl", "file", "org/QwQ"),
        ("/a/teacher=QwQ/p.jsonl", "folder", "QwQ"),
        ("/p.jsonl", "folder:9", None),
        ("/flat/a.b/c.jsonl", "{teacher}/*", "a.b"),
        ("/flat/a+b/c.jsonl", "a+{teacher}/*", "b"),
    ],
)
def test_the_teacher_is_told_by_a_part_of_the_path(uri, rule, teacher):
    assert teacher_by_rule(uri, rule) == teacher


def rows_of(tmp_path, rows, **reading):
    path = tmp_path / "flat" / "T.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    obj = InputObject(uri=str(path), version="v", size=1)
    how = Reading(**reading)
    found = [canonical(row, obj, n, how) for n, row in enumerate(iter_trajectories(obj, None, how))]
    return make_plan([obj], None, how), found


SIDE_BY_SIDE = {
    "q": "2+2?",
    "g_thought": "Two twice.",
    "g_answer": "4",
    "d_thought": "Count.",
    "d_answer": "four",
}


@pytest.mark.parametrize("order", list(itertools.permutations(SIDE_BY_SIDE))[::7])
def test_answers_of_several_teachers_side_by_side_are_rows_of_each(tmp_path, order):
    columns = {"prompt": "q", "thinking": "{teacher}_thought", "response": "{teacher}_answer"}
    plan, found = rows_of(
        tmp_path, [{name: SIDE_BY_SIDE[name] for name in order} | {"id": 7}], columns=columns
    )
    assert [(row["teacher"], row["trajectory_id"]) for row in found] == [("d", "7"), ("g", "7")]
    said = [json.loads(row["messages"])[1]["content"] for row in found]
    assert said == ["<think>\nCount.\n</think>\n\nfour", "<think>\nTwo twice.\n</think>\n\n4"]
    assert plan.teacher == "the names of columns: {teacher}_thought"
    assert not plan.not_read
    assert len({row["prompt_id"] for row in found}) == 1


def test_samples_side_by_side_are_samples_and_a_missing_one_is_a_reject(tmp_path):
    rows = [{"q": "2+2?", "id": "a", "s_1": "4", "s_2": None, "s_10": "four"}]
    _, found = rows_of(
        tmp_path, rows, teacher="T", columns={"prompt": "q", "response": "s_{sample}"}
    )
    assert [(r["sample"], r["trajectory_id"], r["reject_reason"]) for r in found] == [
        (1, "a/1", None),
        (2, "a/2", "empty_response"),
        (10, "a/10", None),
    ]


def test_a_row_without_any_of_the_answers_is_a_reject_and_a_pattern_that_no_row_has_an_error(
    tmp_path,
):
    rows = [{"q": "?", "s_1": "4"}, {"q": "?", "other": 1}]
    _, found = rows_of(
        tmp_path, rows, teacher="T", columns={"prompt": "q", "response": "s_{sample}"}
    )
    assert [r["reject_reason"] for r in found] == [None, "unreadable_row"]
    with pytest.raises(UserError, match="none of the first rows has this column"):
        rows_of(tmp_path, rows, teacher="T", columns={"prompt": "q", "response": "t_{sample}"})


def test_roles_of_any_name_are_given(tmp_path):
    turns = [{"role": "asker", "content": "2+2?"}, {"from": "solver", "value": "4"}]
    for messages in (turns, json.dumps(turns)):
        _, (row,) = rows_of(tmp_path, [{"messages": messages}])
        assert row["reject_reason"] == "unknown_role"
        assert "--roles asker=" in row["reject_detail"]
        _, (row,) = rows_of(
            tmp_path, [{"messages": messages}], roles={"asker": "user", "solver": "assistant"}
        )
        assert [turn["role"] for turn in json.loads(row["messages"])] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"teacher_from": "path"}, "--teacher-from path: use file"),
        ({"teacher_from": "folder:0"}, "--teacher-from folder:0"),
        ({"teacher_from": "file", "teacher": "T"}, "--teacher cannot be combined"),
        ({"roles": ("a",)}, "--roles a: use NAME=ROLE"),
        ({"roles": ("a=b",)}, "--roles a=b: use system, user"),
        ({"columns": ("response={teacher}_{teacher}",)}, "contains {teacher} twice"),
        ({"columns": ("response={teacher}_a",), "teacher": "T"}, "--teacher cannot be combined"),
        ({"columns": ("prompt={teacher}_a",)}, "a pattern also needs one for response"),
    ],
)
def test_what_says_nothing_is_refused(given, says):
    with pytest.raises(UserError, match=says.replace("{", "\\{")):
        ScoreConfig(corpus=("c",), student="s", store="t", **given)


def test_each_option_of_reading_is_a_reading_of_its_own():
    each = [
        Reading(),
        Reading("a"),
        Reading(teacher_from="file"),
        Reading(columns={"prompt": "q"}),
        Reading(roles={"a": "user"}),
    ]
    assert len({one.label for one in each}) == len(each)
