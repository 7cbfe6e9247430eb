"""Whether an answer ended by itself, as the corpus says; rows of one id with other content."""

import numpy as np
import pytest

from rsr_ray.corpus.canonical import canonical
from rsr_ray.corpus.endings import is_complete
from rsr_ray.corpus.reading import Reading
from rsr_ray.corpus.shapes import mapped, samples
from rsr_ray.files.objects import InputObject
from rsr_ray.run.reduce import count_once

from .test_reduce import rows_of

OBJ = InputObject(uri="/corpus/a/part.jsonl", version="v", size=1)


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        ({}, None),
        ({"complete": True}, True),
        ({"complete": "false"}, False),
        ({"complete": 0}, False),
        ({"complete": 0.0}, False),
        ({"complete": float("nan")}, None),
        ({"complete": None}, None),
        ({"complete": "perhaps"}, None),
        ({"truncated": True}, False),
        ({"truncated": 0}, True),
        ({"finish_reason": "stop"}, True),
        ({"finish_reason": "LENGTH"}, False),
        ({"stop_reason": "max_tokens"}, False),
        ({"stop_reason": "end_turn"}, True),
        ({"finish_reason": "1"}, None),
        ({"finish_reason": "stop", "truncated": True}, False),
        ({"messages": [{"role": "user"}, {"role": "assistant", "finish_reason": "length"}]}, False),
        ({"messages": [{"role": "assistant", "finish_reason": "length"}, {"role": "user"}]}, None),
        ({"response": {"content": "x", "finish_reason": "stop"}}, True),
    ],
)
def test_what_a_row_says(row, verdict):
    assert is_complete(row) is verdict


def test_each_of_several_answers_has_its_own():
    row = {
        "prompt": "?",
        "response": ["a", "b", "c"],
        "finish_reason": ["stop", "length", None],
        "teacher": "t",
    }
    assert [canonical(one, OBJ, 0, Reading())["complete"] for one in samples(row)] == [
        True,
        False,
        None,
    ]


def test_a_column_of_another_name_is_mapped():
    row = mapped(
        {"prompt": "?", "response": "a", "meta": {"why": "length"}}, {"finish_reason": "meta.why"}
    )
    assert canonical(row, OBJ, 0, Reading("t"))["complete"] is False


def contents(*rows):
    return [
        canonical({"prompt": "?", "id": "7"} | row, OBJ, n, Reading("t"))["content"]
        for n, row in enumerate(rows)
    ]


def test_content_is_the_conversation_and_its_tools_and_nothing_else():
    tools = [{"type": "function", "function": {"name": "f"}}]
    same = contents(
        {"response": "a"},
        {"response": "a", "id": "8", "complete": False},
        {"output": None, "response": "a"},
    )
    other = contents(
        {"response": "a"},
        {"response": "b"},
        {"response": "a", "prompt": "!"},
        {"response": "a", "tools": tools},
    )
    assert len({*same}) == 1
    assert len({*other}) == 4


def test_rows_of_one_id_count_once_for_each_content():
    rows = rows_of([1.0, 2.0, 4.0, 8.0])
    rows = rows.set_column(
        rows.schema.get_field_index("trajectory_id"), "trajectory_id", [["a", "a", "a", "b"]]
    )
    rows = rows.set_column(
        rows.schema.get_field_index("content"), "content", [["x", "y", "x", "x"]]
    )
    rows = rows.set_column(
        rows.schema.get_field_index("complete"), "complete", [[True, False, False, None]]
    )
    counted = count_once(rows)
    totals = {
        name: int(np.sum(counted[name].to_numpy()))
        for name in counted.column_names
        if name.startswith("is_")
    }
    assert totals["is_scored"] == 3
    assert totals["is_duplicate"] == 1
    assert totals["is_repeated_id"] == 1
    assert (totals["is_complete"], totals["is_incomplete"]) == (1, 1)
