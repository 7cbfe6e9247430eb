"""The same conversation in every shape, and what is no conversation."""

import json

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rsr_ray.corpus.canonical import canonical
from rsr_ray.corpus.endings import is_complete
from rsr_ray.corpus.pairs import PAIRS
from rsr_ray.corpus.reading import Reading
from rsr_ray.corpus.rows import iter_trajectories
from rsr_ray.corpus.shapes import COLUMNS as KNOWN
from rsr_ray.corpus.shapes import conversation, mapped, samples, shape_of
from rsr_ray.errors import BadRow
from rsr_ray.files.objects import InputObject
from rsr_ray.schema import REJECT_REASONS
from rsr_ray.unit_rows import READ_ROWS

ASKED, THOUGHT, ANSWER = "What is 2+2?", "Two and two.", "It is 4."
WHOLE = f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"
TURNS = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": WHOLE}]
SHAPES = {
    "messages": {"messages": TURNS},
    "conversations": {
        "conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": WHOLE}]
    },
    "conversations with roles": {
        "conversations": [
            {"role": "user", "content": ASKED},
            {"role": "assistant", "content": WHOLE},
        ]
    },
    "prompt and response": {"prompt": ASKED, "response": WHOLE},
    "instruction and output": {"instruction": ASKED, "input": "", "output": WHOLE},
    "prompt and response as turns": {"prompt": TURNS[:1], "response": TURNS[1:]},
    "parts": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "2+2?"}],
            },
            TURNS[1],
        ]
    },
    "reasoning_content": {
        "messages": [
            TURNS[0],
            {"role": "assistant", "content": ANSWER, "reasoning_content": THOUGHT},
        ]
    },
    "reasoning": {
        "messages": [
            TURNS[0],
            {"role": "assistant", "content": ANSWER, "reasoning": f"\n{THOUGHT}\n"},
        ]
    },
    "thinking": {
        "messages": [
            TURNS[0],
            {"role": "assistant", "content": ANSWER, "thinking": THOUGHT, "reasoning": None},
        ]
    },
    "reasoning beside the response": {"prompt": ASKED, "response": ANSWER, "reasoning": THOUGHT},
    "other names": {"question": ASKED, "completion": WHOLE},
    "nulls of other shapes": {
        "messages": None,
        "conversations": None,
        "tools": None,
        "prompt": ASKED,
        "response": WHOLE,
    },
}
COLUMNS = {"prompt": "question", "response": "completion"}


def canonical_of(row: dict, **more) -> dict:
    return canonical(
        {**row, **more},
        InputObject(uri="/corpus/teacher=T/a.jsonl", version="v", size=1),
        0,
        Reading(),
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_one_conversation_is_one_trajectory_in_every_shape(shape):
    got, want = (canonical_of(mapped(SHAPES[s], COLUMNS)) for s in (shape, "messages"))
    for name in ("trajectory_id", "prompt_id", "messages", "reject_reason"):
        assert got[name] == want[name], name


def test_instruction_and_input_are_two_paragraphs_of_the_prompt():
    assert (
        conversation({"instruction": "What is", "input": "2+2?", "output": WHOLE})[0]["content"]
        == "What is\n2+2?"
    )


@pytest.mark.parametrize(
    ("columns", "shape"),
    [
        ({"messages", "prompt", "response"}, "messages"),
        ({"conversations", "id"}, "conversations"),
        ({"prompt", "response"}, "prompt + response"),
        ({"instruction", "output"}, "instruction + input + output"),
        ({"prompt", "text"}, None),
    ],
)
def test_the_shape_shows_in_the_columns(columns, shape):
    assert shape_of(columns) == shape


def test_several_answers_to_a_prompt_are_several_trajectories():
    row = {
        "id": "p1",
        "prompt": ASKED,
        "response": ["4", "four", WHOLE],
        "reasoning": ["a", None, None],
    }
    many = list(samples(row))
    assert [(one["id"], one["sample"]) for one in many] == [("p1/0", 0), ("p1/1", 1), ("p1/2", 2)]
    assert [conversation(one)[1]["content"] for one in many] == [
        "<think>\na\n</think>\n\n4",
        "four",
        WHOLE,
    ]
    assert (
        len(
            {
                canonical_of(one)["trajectory_id"]
                for one in samples({"prompt": ASKED, "response": ["4", "4"]})
            }
        )
        == 2
    )
    assert list(samples({"prompt": ASKED, "response": "4"})) == [{"prompt": ASKED, "response": "4"}]
    assert [
        one["sample"] for one in samples({"prompt": ASKED, "response": [[TURNS[1]], [TURNS[1]]]})
    ] == [0, 1]


def test_rows_of_several_answers_are_counted_one_by_one(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        json.dumps({"question": ASKED, "completion": ["a", "b"]})
        + "\n"
        + json.dumps({"question": ASKED, "completion": "c"})
        + "\n"
    )
    rows = list(
        iter_trajectories(
            InputObject(uri=str(path), version="v", size=1), None, Reading(columns=COLUMNS)
        )
    )
    assert [row["response"] for row in rows] == ["a", "b", "c"]


def test_tools_and_their_answers():
    turns = conversation(
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": "Weather?"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "c1", "function": {"name": "w", "arguments": '{"city": "Paris"}'}}
                    ],
                },
                {"role": "tool", "content": "12 C", "tool_call_id": "c1"},
                {"role": "assistant", "content": "12."},
            ]
        }
    )
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "tool", "assistant"]
    assert turns[2]["tool_calls"] == [
        {"type": "function", "function": {"name": "w", "arguments": {"city": "Paris"}}, "id": "c1"}
    ]
    assert turns[3] == {"role": "tool", "content": "12 C", "tool_call_id": "c1"}
    sharegpt = conversation(
        {
            "system": "Be brief.",
            "conversations": [
                {"from": "human", "value": "Weather?"},
                {
                    "from": "function_call",
                    "value": '{"name": "w", "arguments": {"city": "Paris", "unit": null}}',
                },
                {"from": "observation", "value": "12 C"},
                {"from": "gpt", "value": "12."},
            ],
        }
    )
    assert [(turn["role"], turn["content"]) for turn in sharegpt] == [
        (turn["role"], turn["content"]) for turn in turns
    ]
    assert sharegpt[2]["tool_calls"][0]["function"] == turns[2]["tool_calls"][0]["function"]


@pytest.mark.parametrize(
    ("row", "reason", "says"),
    [
        (
            {"messages": [{"role": "user", "content": [{"type": "video", "video": "x.mp4"}]}]},
            "not_text",
            "video",
        ),
        ({"messages": [{"role": "user", "content": []}]}, "not_text", "list"),
        ({"messages": [{"role": "user", "content": ["a", 3]}]}, "not_text", "int"),
        ({"messages": [{"role": "assistant", "content": "a", "reasoning": 3}]}, "not_text", "int"),
        (
            {"messages": [{"role": "assistant", "content": "a", "tool_calls": ["f"]}]},
            "tool_calls",
            "names no function",
        ),
        ({"conversations": [{"from": "narrator", "value": "x"}]}, "unknown_role", "narrator"),
        ({"question": "a", "completion": "b"}, "unreadable_row", "--columns maps other names"),
        ({"prompt": 3, "response": "b"}, "not_text", "int"),
    ],
)
def test_what_is_no_conversation_says_why(row, reason, says):
    with pytest.raises(BadRow, match=says) as caught:
        conversation(row)
    assert caught.value.reason == reason


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "user", "assistant", "gpt", "<think>", "\ud800", "f(x)", "{}"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "tool_calls", "text"]), inner
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    "row",
    [
        {"sample": False, "messages": TURNS},
        {"sample": 2**70, "messages": TURNS},
        {"\ud800": 1},
        {
            "messages": [
                {"role": "user", "content": "x"},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"function": {"name": "\ud800"}}],
                },
            ]
        },
    ],
)
def test_no_value_is_too_strange_for_the_store(row):
    got = canonical_of(row)
    (kept,) = pa.array([got], READ_ROWS).to_pylist()
    assert kept["sample"] is None


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(row=st.dictionaries(st.sampled_from(KNOWN), values, max_size=6))
def test_any_row_is_a_conversation_or_says_why_not(row):
    for one in samples(row):
        got = canonical_of(one)
        assert (got["messages"] is None) == (got["reject_reason"] is not None)
        assert got["reject_reason"] is None or (
            got["reject_reason"] in REJECT_REASONS and got["reject_detail"]
        )
        pa.array([got], READ_ROWS)  # Arrow can hold it


def test_a_pair_of_columns_is_read_split_and_searched_for_marks_wherever_it_matters():
    """Everything that knows names of answers takes them from one table."""
    for question, answer in PAIRS:
        assert {question, answer} <= {*KNOWN}
        assert shape_of({question, answer}) is not None
        row = {question: "2+2?", answer: ["4", "four"], "teacher": "t", "id": "x"}
        found = [*samples(row)]
        assert [one[answer] for one in found] == ["4", "four"]
        cut_off = {question: "2+2?", answer: {"text": "4", "finish_reason": "length"}}
        assert is_complete(cut_off) is False
