"""Agents' turns under real templates: what plain transformers renders whole, in any form of the
turn, is scored whole.

`python -m tests.test_agent_turns` prints the table: of each template the turns, in how many forms
they are rendered whole, and the --render modes that score all of them.
"""

import itertools
import json
from functools import cache

import pytest

from rsr_ray.corpus.shapes import conversation
from rsr_ray.encode.how import How
from rsr_ray.encode.locate import find
from rsr_ray.errors import BadRow
from rsr_ray.student.tokenizer import load_tokenizer

from .conftest import SHARED, WHOLE, needs_shared

TEMPLATES = sorted(SHARED.glob("chat_templates/*.jinja"))
STUDENT = str(SHARED / "students" / "tiny-qwen3")
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "shell",
            "description": "Runs.",
            "parameters": {"type": "object", "properties": {}},
        },
    }
]
CALL = {
    "id": "abcdefghi",
    "type": "function",
    "function": {"name": "shell", "arguments": {"cmd": "dirlist"}},
}
ANSWER, THOUGHTS, SAID = "Exactly seven.", ("Which are there?", "Seven of them."), "First a look."
TURNS = {
    "no reasoning, content ''": (None, ""),
    "no reasoning, content null": (None, None),
    "no reasoning, content []": (None, []),
    "no reasoning, content text": (None, SAID),
    "reasoning, content ''": (THOUGHTS, ""),
    "reasoning, content null": (THOUGHTS, None),
    "reasoning, content text": (THOUGHTS, SAID),
}


EARLIER = (
    {"role": "user", "content": "Are you there?"},
    {"role": "assistant", "content": "I am here."},
)


def row_of(thoughts, content, field="reasoning_content", arguments="dict", earlier=()):
    call = json.loads(json.dumps(CALL))
    if arguments == "str":
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    turns = [
        *earlier,
        {"role": "user", "content": "How many files?"},
        {"role": "assistant", "content": content, "tool_calls": [call]},
        {"role": "tool", "name": "shell", "tool_call_id": "abcdefghi", "content": "a b"},
        {"role": "assistant", "content": ANSWER},
    ]
    for turn, thought in zip(turns[len(earlier) + 1 :: 2], thoughts or (), strict=False):
        turn |= (
            {"content": f"<think>\n{thought}\n</think>\n\n{turn['content'] or ''}"}
            if field == "think"
            else {field: thought}
        )
    return turns


def said_by(thoughts, content):
    return ["dirlist", ANSWER, *(thoughts or ()), *([content] if content else [])]


@cache
def tokenizer_of(template):
    return load_tokenizer(STUDENT, template.read_text())


def n_whole(template, thoughts, content, earlier=()):
    """In how many forms of the turn plain transformers renders all of it."""
    forms = itertools.product(
        {"as it is": content, "empty": content or "", "null": content or None}.values(),
        ("dict", "str"),
        ("reasoning_content", "reasoning", "thinking", "think") if thoughts else ("none",),
    )
    n = 0
    for shown, arguments, field in forms:
        try:
            text = tokenizer_of(template).apply_chat_template(
                row_of(thoughts, shown, field, arguments, earlier), tools=TOOLS, tokenize=False
            )
        except Exception:
            continue
        n += all(word in text for word in said_by(thoughts, content))
    return n


def modes(template, thoughts, content, earlier=()):
    """The --render modes that score all of it, and what the others say."""
    scored, says = [], {}
    for name in ("template", "verbatim"):
        try:
            turns = conversation({"messages": row_of(thoughts, content, earlier=earlier)})
            text, spans, *_ = find(
                turns,
                tokenizer_of(template),
                How(max_length=10**6, verbatim=name == "verbatim"),
                TOOLS,
            )
        except BadRow as e:
            says[name] = e.detail
            continue
        pieces = [text[start:stop] for start, stop in spans]
        assert all(
            sum(piece.count(word) for piece in pieces) == 1 for word in said_by(thoughts, content)
        ), pieces
        assert not any(word in piece for piece in pieces for word in ("How many files?", "a b")), (
            pieces
        )
        scored.append(name)
    return scored, says


# Every day a turn is the first one or behind a question and its answer, by turns.
CASES = [
    pytest.param(template, turn, earlier, id=f"{template.stem}-{turn}-{which}")
    for n, (template, turn) in enumerate(itertools.product(TEMPLATES, TURNS))
    for m, (which, earlier) in enumerate({"one question": (), "two": EARLIER}.items())
    if WHOLE or m == n % 2
]


@needs_shared
@pytest.mark.parametrize(("template", "turn", "earlier"), CASES)
def test_what_a_template_renders_whole_is_scored(template, turn, earlier):
    scored, says = modes(template, *TURNS[turn], earlier)
    assert scored or not n_whole(template, *TURNS[turn], earlier), says
    for mode, detail in says.items():  # a reject names what can, and only that
        other = "verbatim" if mode == "template" else "template"
        assert (f"--render {other} keeps it" in detail) == (other in scored), detail
        assert scored or "another with --chat-template" in detail


if __name__ == "__main__":
    for template in TEMPLATES:
        for name, turn in TURNS.items():
            print(
                f"{template.stem[:44]:44}  {name:28}  whole in {n_whole(template, *turn):2} "
                f"forms   {', '.join(modes(template, *turn)[0]) or '-'}"
            )
