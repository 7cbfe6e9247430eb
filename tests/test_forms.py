"""Templates with forms of their own: reasoning in a field, no system role, calls behind verbatim
text.
"""

import pytest

from rsr_ray.encode.how import How
from rsr_ray.encode.locate import find
from rsr_ray.errors import BadRow

from .conftest import DEMO_STUDENT

FIELD = (
    "{% for m in messages %}[{{ m.role }}]{% if m.reasoning_content %}<think>{{ "
    "m.reasoning_content }}</think>|{% endif %}"
    "{{ m.content.split('</think>')[-1].strip() }}{% for c in m.tool_calls or [] "
    "%}\n<call>{{ c.function.name }}</call>{% endfor %}[end]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + FIELD
)
CALL = {"type": "function", "function": {"name": "look", "arguments": {}}}
ASKED = {"role": "user", "content": "2+2?"}
THOUGHT = "<think>\nTwo and two.\n</think>"


def scored(turns, template, **how):
    from rsr_ray.student.tokenizer import load_tokenizer

    text, spans, whose, *_ = find(
        turns, load_tokenizer(str(DEMO_STUDENT), template), How(max_length=999, **how)
    )
    return [text[a:b] for a, b in spans], whose, text


def test_reasoning_goes_into_the_field_that_the_template_has():
    turns = [ASKED, {"role": "assistant", "content": THOUGHT + "\n\nIt is 4."}]
    assert scored(turns, FIELD)[:2] == (["Two and two.", "It is 4."], [1, 1])
    turns = [ASKED, {"role": "assistant", "content": THOUGHT, "tool_calls": [CALL]}]
    assert scored(turns, FIELD)[0] == ["Two and two.", "<call>look</call>"]


def test_a_prompt_that_is_rendered_already_is_taken_as_it_stands():
    asked = {
        "role": "user",
        "content": "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n<think>\n",
    }
    turns = [asked, {"role": "assistant", "content": THOUGHT + "\n\nIt is 4."}]
    spans, whose, text = scored(turns, FIELD, raw=True)
    assert (spans, whose) == ([THOUGHT + "\n\nIt is 4."], [1])
    assert text == asked["content"].removesuffix("<think>\n") + spans[0]
    with pytest.raises(BadRow, match="--render raw expects a rendered prompt and an answer"):
        scored([*turns, *turns], FIELD, raw=True)


def test_a_text_that_the_template_puts_together_as_it_stood_is_one_span():
    template = FIELD.replace(
        "<think>{{ m.reasoning_content }}</think>|",
        "<think>\n{{ m.reasoning_content }}\n</think>\n\n",
    )
    turns = [ASKED, {"role": "assistant", "content": THOUGHT + "\n\nIt is 4."}]
    assert scored(turns, template)[0] == [THOUGHT + "\n\nIt is 4."]


def test_verbatim_text_has_its_calls_behind_it():
    turns = [
        ASKED,
        {"role": "assistant", "content": THOUGHT + "\n\n", "tool_calls": [CALL]},
        {"role": "tool", "content": "4"},
        {"role": "assistant", "content": THOUGHT + "\n\nIt is 4."},
    ]
    said, whose, text = scored(turns, FIELD, verbatim=True)
    assert said == [THOUGHT + "\n\n", "<call>look</call>", THOUGHT + "\n\nIt is 4."]
    assert whose == [1, 1, 3]
    assert text.endswith("[tool]4[end][assistant]" + THOUGHT + "\n\nIt is 4.")
    assert scored(turns[:2], FIELD, verbatim=True)[0] == said[:2]


def test_a_system_turn_under_a_template_without_one():
    turns = [
        {"role": "system", "content": "Be brief."},
        ASKED,
        {"role": "assistant", "content": "4"},
    ]
    said, whose, text = scored(turns, NO_SYSTEM)
    assert (said, whose) == (["4"], [2])
    assert "[user]Be brief.\n\n2+2?[end]" in text
    assert "Be brief." not in scored(turns, NO_SYSTEM, system_role="drop")[2]
    with pytest.raises(BadRow, match="no system role"):
        scored(turns, NO_SYSTEM, system_role="refuse")


def test_context_is_rendered_and_not_scored():
    turns = [
        ASKED,
        {"role": "assistant", "content": "4", "train": False},
        ASKED,
        {"role": "assistant", "content": "four"},
    ]
    said, whose, text = scored(turns, FIELD)
    assert (said, whose) == (["four"], [3])
    assert "[assistant]4[end]" in text
