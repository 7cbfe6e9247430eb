"""Where tool calls lie in a rendering is found for all turns at once; a rendering for each turn
gives the same.
"""

import itertools
import random

import pytest

from rsr_ray.encode.calls import find_calls, inserted, silent
from rsr_ray.encode.locate import find_turns
from rsr_ray.encode.rendering import render
from rsr_ray.errors import BadRow

from .conftest import SHARED, few, needs_shared

TEMPLATES = (
    sorted(path.stem for path in (SHARED / "chat_templates").glob("*.jinja"))
    if SHARED.is_dir()
    else []
)
CALL = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor "
    "%}<|end|>{% endfor %}"
)
TEXTS = [
    "",
    "",
    "ok",
    "</call>",
    "call",
    "<|end|>",
    "<call>",
    "x" * 50,
    "a\nb ",
    " lead",
    "{",
    '"}',
    "the same",
    "the same",
]


def one_by_one(turns, text, tokenizer, tools):
    """The slow way: a rendering for each turn with calls."""
    found, n = {}, 0
    for i, turn in enumerate(turns):
        n += turn["role"] == "assistant"
        if turn.get("tool_calls"):
            found[i] = inserted(
                text, render(silent(turns, {i}), tokenizer, tools), turn, n, tokenizer
            )
    return found


def agents_trace(rng: random.Random, n: int) -> list[dict]:
    """n steps of an agent: calls, one or several, answered or not, with text or without, turns
    of others empty or missing.
    """
    turns = [{"role": "user", "content": rng.choice(TEXTS) or "go"}]
    for step in range(n):
        names = [rng.choice(["search", "f", "run"]) for _ in range(rng.choice([0, 1, 1, 1, 2]))]
        ids = [f"id{step:04d}{k:03d}" for k in range(len(names))]
        calls = [
            {
                "type": "function",
                "id": i,
                "function": {
                    "name": name,
                    "arguments": {"q": rng.choice([*TEXTS, 1, None, ["x"]])},
                },
            }
            for i, name in zip(ids, names, strict=True)
        ]
        content = rng.choice(TEXTS) if calls else "said"
        turns.append(
            {"role": "assistant", "content": content} | ({"tool_calls": calls} if calls else {})
        )
        how = rng.random()
        if calls and how < 0.8:
            turns += [
                {"role": "tool", "name": name, "tool_call_id": i, "content": rng.choice(TEXTS)}
                for i, name in zip(ids, names, strict=True)
            ]
        elif how < 0.9:
            turns.append({"role": "user", "content": rng.choice(TEXTS)})
    return [*turns, {"role": "assistant", "content": "done"}]


def outcome(find, *args):
    try:
        return find(*args)
    except BadRow as e:
        return e.reason


def all_in_place(found, turns, text) -> bool:
    """Whether each span of calls has the names of its turn's calls, and none overlaps another."""
    spans = [found[i] for i in sorted(found)]
    names = all(
        call["function"]["name"] in text[slice(*found[i])]
        for i in found
        for call in turns[i]["tool_calls"]
    )
    return names and all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


def compare(tokenizer, rng, n_rows: int) -> int:
    """How many of random traces had spans; they are the same both ways, or the same reject."""
    found = 0
    for _ in range(n_rows):
        turns = agents_trace(rng, rng.randrange(1, 9))
        try:
            text = render(turns, tokenizer)
        except BadRow:
            continue
        fast, slow = (
            outcome(find, turns, text, tokenizer, None) for find in (find_calls, one_by_one)
        )
        if slow == "template_error":  # the template refuses the conversation without its calls
            assert fast == slow or all_in_place(fast, turns, text)
            continue
        assert fast == slow, turns
        found += isinstance(fast, dict) and bool(fast)
    return found


def test_all_at_once_is_as_one_by_one(templated):
    assert compare(templated(CALL), random.Random(0), 200) > 150


@needs_shared
@pytest.mark.parametrize("name", TEMPLATES)
def test_all_at_once_is_as_one_by_one_under_real_templates(templated, name):
    compare(
        templated((SHARED / "chat_templates" / f"{name}.jinja").read_text()),
        random.Random(name),
        few(40, 8),
    )


def plain_trace(n: int) -> list[dict]:
    turns = [{"role": "user", "content": "go"}]
    for i in range(n):
        call = {
            "type": "function",
            "id": f"id{i:07d}",
            "function": {"name": "search", "arguments": {"q": f"x{i}"}},
        }
        turns.append(
            {"role": "assistant", "content": f"step {i}" if i % 2 else "", "tool_calls": [call]}
        )
        turns.append(
            {
                "role": "tool",
                "name": "search",
                "tool_call_id": call["id"],
                "content": f"found {i}" if i % 3 else "",
            }
        )
    return [*turns, {"role": "assistant", "content": "done"}]


def test_a_row_takes_as_many_renderings_however_many_calls_it_has(templated, monkeypatch):
    tokenizer, counts = templated(CALL), []
    apply = tokenizer.apply_chat_template
    for n in (10, 100, 400):
        rendered = []
        monkeypatch.setattr(
            tokenizer,
            "apply_chat_template",
            lambda *args, _to=rendered, **more: _to.append(1) or apply(*args, **more),
        )
        _, spans, owners, *_ = find_turns(plain_trace(n), tokenizer)
        counts.append(len(rendered))
        assert len(set(owners)) == n + 1
        assert len(spans) == n + n // 2 + 1
    assert counts == [4, 4, 4]
