"""Every text that an assistant wrote is read exactly once, or the row is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsr_ray.corpus.shapes import conversation, mapped, samples
from rsr_ray.corpus.turns import READ, SILENT
from rsr_ray.errors import BadRow

ASKED = {"role": "user", "content": "What is 2+2?"}
WHOLE = "<think>\nTwo and two.\n</think>\n\nIt is 4."


def answer_of(turn, **more):
    return conversation({"messages": [ASKED, {"role": "assistant", **turn}], **more})[1]


@pytest.mark.parametrize(
    "turn",
    [
        {"content": "It is 4.", "thinking": "Two and two."},
        {"content": "It is 4.", "reasoning": "Two and two.", "reasoning_content": " Two and two."},
        {"content": WHOLE, "reasoning_content": "Two and two."},
        {"text": WHOLE},
        {"content": WHOLE, "value": WHOLE},
        {"content": [{"type": "thinking", "thinking": "Two and two.", "signature": "x"},
                     {"type": "text", "text": "It is 4."}]},
    ],
)  # fmt: skip
def test_an_answer_is_one_in_every_form(turn):
    assert answer_of(turn) == {"role": "assistant", "content": WHOLE}


def test_reasoning_that_was_cut_off_stays_open():
    for content in (None, ""):
        cut = answer_of({"content": content, "reasoning": "Two and"})
        assert cut["content"] == "<think>\nTwo and"


@pytest.mark.parametrize("switch", ["on", "Off", True, "high", {"type": "enabled"}])
def test_a_switch_beside_the_response_is_no_reasoning(switch):
    row = {"prompt": "2+2?", "response": "4", "reasoning": switch}
    assert conversation(row)[1]["content"] == "4"
    assert conversation(
        {"messages": [ASKED, {"role": "assistant", "content": "4"}], "reasoning": switch}
    )


@pytest.mark.parametrize(
    ("turn", "more", "says"),
    [
        ({"content": "4", "final_answer": "four"}, {}, "final_answer"),
        ({"content": "4", "refusal": "I will not."}, {}, "refusal"),
        ({"content": "4", "extra": [{"text": "five"}]}, {}, "extra"),
        ({"content": "4", "text": "five"}, {}, "content and in text"),
        ({"content": "4", "reasoning": "a", "thinking": "b"}, {}, "reasoning and thinking"),
        ({"content": WHOLE, "reasoning": "Something else."}, {}, "different reasoning"),
        ({"content": "4"}, {"reasoning": "It was thought."}, "column reasoning"),
    ],
)
def test_text_that_would_not_be_read_refuses_the_row(turn, more, says):
    with pytest.raises(BadRow, match=says) as caught:
        answer_of(turn, **more)
    assert caught.value.reason == "unread_content"


@settings(deadline=None)
@given(
    key=st.text("abcdefgh_", min_size=1, max_size=12).filter(lambda k: k not in READ | SILENT),
    text=st.text(min_size=1).filter(lambda t: t.strip() and t.isprintable()),
)
def test_no_key_of_a_turn_is_left_unread(key, text):
    with pytest.raises(BadRow):
        answer_of({"content": "4", key: text})


def test_roles_blocks_and_calls_of_other_houses():
    row = {
        "messages": [
            {"role": "Human", "content": "Weather?"},
            {
                "role": "ai",
                "content": [
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "c", "name": "w", "input": {"x": 1, "y": None}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c", "content": "2 C"},
                    {"type": "text", "text": "And?"},
                ],
            },
            {"role": "ai", "content": "", "function_calls": "w(city=1)"},
            {"role": "environment", "content": "3 C"},
        ]
    }
    turns = conversation(row)
    assert [t["role"] for t in turns] == ["user", "assistant", "tool", "user", "assistant", "tool"]
    assert turns[1]["tool_calls"][0]["function"] == {"name": "w", "arguments": {"x": 1}}
    assert turns[4]["content"] == "w(city=1)"


def test_nulls_that_the_model_wrote_stay():
    call = {"name": "w", "arguments": '{"a": null}'}
    turn = answer_of({"content": None, "tool_calls": [{"function": call}]})
    assert turn["tool_calls"][0]["function"]["arguments"] == {"a": None}


def test_what_is_mapped_comes_before_what_is_guessed():
    row = {"messages": [ASKED], "generated": WHOLE, "reasoning": "Two and two."}
    turns = conversation(mapped(row, {"response": "generated"}))
    assert [t["content"] for t in turns] == ["What is 2+2?", WHOLE]
    deep = mapped(
        {"meta": '{"task": {"id": 7}}', "messages": [ASKED]}, {"prompt_id": "meta.task.id"}
    )
    assert deep["prompt_id"] == 7


def test_one_answer_of_several_that_failed_is_one_row():
    answers = [
        "4",
        None,
        {"message": {"content": "four", "reasoning_content": "2+2"}},
        {"text": "IV"},
    ]
    said = [
        conversation(one)[1]["content"] for one in samples({"prompt": "2+2?", "response": answers})
    ]
    assert said == ["4", "", "<think>\n2+2\n</think>\n\nfour", "IV"]


def test_earlier_answers_are_context():
    row = {"instruction": "And 3+3?", "output": "6", "history": [["2+2?", "4"]]}
    turns = conversation(row)
    assert [t.get("train", True) for t in turns] == [True, False, True, True]
    assert [t["content"] for t in turns] == ["2+2?", "4", "And 3+3?", "6"]
    assert answer_of({"content": "4", "weight": 0})["train"] is False


@pytest.mark.parametrize("column", ["response", "output", "completion", "reasoning"])
def test_a_second_answer_beside_the_one_that_is_read_is_refused_unless_one_is_named(column):
    row = {"messages": [ASKED, {"role": "assistant", "content": "It is 4."}], column: "No, 5."}
    with pytest.raises(
        BadRow,
        match=(
            f"column {column} has text that is in none of the turns; --columns messages=messages"
        ),
    ):
        conversation(row)
    assert conversation({**row, column: "is  4."})
    assert conversation(mapped(row, {"messages": "messages"}))[1]["content"] == "It is 4."
    if column in ("output", "completion"):
        pair = {"prompt": "2+2?", "response": "4", column: "five"}
        with pytest.raises(BadRow, match=f"column {column} has"):
            conversation(pair)
        assert conversation(mapped(pair, {"response": "response"}))[1]["content"] == "4"
