"""locate: a conversation -> its rendering, and where the assistant's texts lie in it.

Where a turn's text lies is found from the template itself, not from a table of markers: texts.py
finds texts, calls.py tool calls.
"""

from collections.abc import Callable
from typing import Any

from rsr_ray.corpus.turns import Turn
from rsr_ray.encode.calls import find_calls
from rsr_ray.encode.found import Found
from rsr_ray.encode.how import How
from rsr_ray.encode.reasoning import field_of, in_fields, split_reasoning, widened
from rsr_ray.encode.rendering import render
from rsr_ray.encode.segments import ANSWER, CALLS, REASONING, segment_of_chars
from rsr_ray.encode.texts import find_texts, slots_of
from rsr_ray.encode.verbatim import find_raw, find_verbatim
from rsr_ray.errors import BadRow

Find = Callable[[list[Turn], Any, list | None], Found]


def find(turns: list[Turn], tokenizer: Any, how: How, tools: list | None = None) -> Found:
    """The rendered conversation and its answers, in the way asked for. Raises BadRow.

    The system prompt is put in if the conversation has none. Turns that are context only have no
    span.
    """
    added = bool(how.system_prompt) and all(turn["role"] != "system" for turn in turns)
    if added:
        turns = [{"role": "system", "content": how.system_prompt}, *turns]
    context = {i for i, turn in enumerate(turns) if not turn.get("train", True)}
    turns = [{key: value for key, value in turn.items() if key != "train"} for turn in turns]
    look = find_raw if how.raw else find_verbatim if how.verbatim else find_turns
    try:
        found = look(turns, tokenizer, tools)
    except BadRow as problem:
        if how.raw:
            raise
        found = _find_without_system(problem, look, turns, tokenizer, tools, how)
    spoken = [n for n, i in enumerate(found.turns) if i not in context]
    spans = [found.spans[n] for n in spoken]
    parts = [found.parts[n] for n in spoken]
    segments = None
    if how.segments is not None:
        segments = segment_of_chars(found.text, spans, parts, how.segments)
    return Found(found.text, spans, [found.turns[n] - added for n in spoken], parts, segments)


def _find_without_system(
    problem: BadRow, look: Find, turns: list[Turn], tokenizer: Any, tools: list | None, how: How
) -> Found:
    """What is found without the system turn, if the template has no such role.

    Otherwise raises the problem with a way out.
    """
    without = _without_system(turns, how.system_role)
    if problem.reason == "template_error" and without is not None:
        try:
            found = look(without, tokenizer, tools)
            return found._replace(turns=[i + 1 for i in found.turns])
        except BadRow:
            pass
    raise _with_way_out(problem, turns, tokenizer, tools, how) from None


def _with_way_out(
    problem: BadRow, turns: list[Turn], tokenizer: Any, tools: list | None, how: How
) -> BadRow:
    """The reject of a row that a template cannot take, with the option that can.

    What is named has been tried.
    """
    other, name = (find_turns, "template") if how.verbatim else (find_verbatim, "verbatim")
    try:
        other(turns, tokenizer, tools)
    except BadRow:
        way_out = (
            "neither --render template nor verbatim keeps all of it with this template; pass "
            "another with --chat-template"
        )
    else:
        way_out = f"--render {name} keeps it"
    return BadRow(problem.reason, f"{problem.detail}; {way_out}")


def _without_system(turns: list[Turn], policy: str) -> list[Turn] | None:
    """The turns for a template without a system role.

    None if there is no system turn, or the policy is to refuse.
    """
    if policy == "refuse" or [turn["role"] for turn in turns[:2]] != ["system", "user"]:
        return None
    system, user, *rest = turns
    if policy == "drop":
        return [user, *rest]
    return [{**user, "content": f"{system['content']}\n\n{user['content']}"}, *rest]


def find_turns(turns: list[Turn], tokenizer: Any, tools: list | None = None) -> Found:
    """The rendered conversation and the assistant's texts in it: content, reasoning, tool calls.

    White space that the template strips from a text's ends is not in the span; white space that it
    keeps is. Raises BadRow if the template fails, or leaves out or rewrites any of the assistant's
    text.
    """
    template = tokenizer.get_chat_template()
    plain = split_reasoning(turns, template)
    try:
        return _find_in_rendering(plain, tokenizer, tools)
    except BadRow as problem:
        field = field_of(template)
        if field is None:
            raise
        split = in_fields(turns, field)
        if split == plain:
            raise
        try:
            return widened(_find_in_rendering(split, tokenizer, tools), turns, split, field)
        except BadRow:
            raise problem from None


def _find_in_rendering(turns: list[Turn], tokenizer: Any, tools: list | None) -> Found:
    """What `find_turns` gives, of turns with reasoning in the fields where it is to be."""
    text = render(turns, tokenizer, tools)
    slots = slots_of(turns)
    spans = find_texts(turns, slots, text, tokenizer, tools)
    owned = [
        (span, slot.turn, ANSWER if slot.field == "content" else REASONING)
        for span, slot in zip(spans, slots, strict=True)
    ]
    text_end = {turn: stop for (_, stop), turn, _ in owned}
    for i, (start, stop) in find_calls(turns, text, tokenizer, tools).items():
        owned.append(((max(start, text_end.get(i, 0)), stop), i, CALLS))
    owned.sort()
    return Found(
        text, [span for span, *_ in owned], [i for _, i, _ in owned], [part for *_, part in owned]
    )
