"""calls: where the tool calls of the assistant's turns lie in a rendering.

What a turn's calls are rendered as is what the rendering loses when they are taken out. It is found
for all turns at once if marks behind the turns of others keep them apart.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from rsr_ray.corpus.turns import Turn
from rsr_ray.encode.found import Span
from rsr_ray.encode.marks import cut_at, make_marks
from rsr_ray.encode.rendering import render
from rsr_ray.errors import BadRow

WORD = re.compile(r"[A-Za-z0-9_]+")


class Segment(NamedTuple):
    """A part of a rendering, between two turns that are not the assistant's."""

    calling: list[int]  # turns with calls in it
    start: int  # where it starts in the rendering
    text: str
    without: str  # what it is without any calls


def find_calls(turns: list[Turn], text: str, tokenizer: Any, tools: list | None) -> dict[int, Span]:
    """For each turn with tool calls what they are rendered as in `text`. Raises BadRow.

    The marks behind the turns of others cut the rendering into segments. If these come together to
    the rendering, and those without a call are the same when all calls are left out, a segment with
    one calling turn is compared with itself without the calls: two renderings for all of them. Any
    other turn is left out by itself, a rendering for each.
    """
    calling = [i for i, turn in enumerate(turns) if turn.get("tool_calls")]
    answers = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    number = {i: n for n, i in enumerate(answers, 1)}
    found: dict[int, Span] = {}
    if len(calling) > 2:
        for segment in _segments(turns, text, tokenizer, tools):
            if len(segment.calling) == 1:
                (i,) = segment.calling
                start, stop = inserted(
                    segment.text, segment.without, turns[i], number[i], tokenizer
                )
                found[i] = (segment.start + start, segment.start + stop)
    for i in calling:
        if i not in found:
            found[i] = _find_one(turns, i, number[i], text, tokenizer, tools)
    return found


def _find_one(
    turns: list[Turn], i: int, n: int, text: str, tokenizer: Any, tools: list | None
) -> Span:
    """Where the calls of turn i lie, the n-th of the assistant."""
    try:
        without = render(silent(turns, {i}), tokenizer, tools)
    except BadRow as e:
        span = _behind_prompt(text, turns, i, tokenizer, tools)
        if span is None:
            raise BadRow(
                "template_error",
                f"cannot find the tool calls of assistant turn {n} in the rendering: without "
                f"them, {e.detail}",
            ) from e
        return span
    return inserted(text, without, turns[i], n, tokenizer)


def _segments(turns: list[Turn], text: str, tokenizer: Any, tools: list | None) -> list[Segment]:
    """The rendering cut behind the turns that are not the assistant's.

    Nothing if the template takes the marks or the missing calls for more than that.
    """
    others = [i for i, turn in enumerate(turns) if turn["role"] != "assistant"]
    if not others:
        return []
    marks = make_marks(len(others), text)
    marked = [dict(turn) for turn in turns]
    for i, mark in zip(others, marks, strict=True):
        content = marked[i]["content"]
        behind = len(content.rstrip())
        marked[i]["content"] = content[:behind] + mark + content[behind:]
    try:
        pieces = cut_at(marks, render(marked, tokenizer, tools))
        all_silent = silent(marked, {*range(len(turns))})
        pieces_without = cut_at(marks, render(all_silent, tokenizer, tools))
    except BadRow:
        return []
    as_expected = len(pieces) == len(pieces_without) == len(marks) + 1
    if "".join(pieces) != text or not as_expected:
        return []
    segments = []
    start = 0
    between = itertools.pairwise([-1, *others, len(turns)])
    for piece, without, (before, behind) in zip(pieces, pieces_without, between, strict=True):
        calling = [i for i in range(before + 1, behind) if turns[i].get("tool_calls")]
        if not calling and piece != without:
            return []
        segments.append(Segment(calling, start, piece, without))
        start += len(piece)
    return segments


def silent(turns: list[Turn], which: set[int]) -> list[Turn]:
    """The turns, some of them without their tool calls."""
    return [
        {key: value for key, value in turn.items() if i not in which or key != "tool_calls"}
        for i, turn in enumerate(turns)
    ]


def inserted(text: str, without: str, turn: Turn, n: int, tokenizer: Any) -> Span:
    """Where in `text` the calls of the n-th assistant turn lie, which `without` lacks.

    Raises BadRow if there are none.
    """
    behind = _n_equal(reversed(text), reversed(without))
    start = _n_equal(text, without[: len(without) - behind])
    stop = len(text) - behind
    # If what follows begins as the calls end ("|>", say), they could lie some characters further
    # on: not inside a marker.
    n_alike = _n_equal(text[start:], text[stop:])
    begins = (k for k in range(n_alike + 1) if text[start + k : start + k + 1] in "<[{\n ")
    shift = next(begins, 0)
    span = _without_eos(text, start + shift, stop + shift, tokenizer)
    if _lacks_call(text[slice(*span)], turn):
        raise BadRow(
            "template_drops_response", f"assistant turn {n}: the template leaves out its tool calls"
        )
    return span


def _without_eos(text: str, start: int, stop: int, tokenizer: Any) -> Span:
    """The span without an end-of-sequence token at its end.

    Some templates end a turn only if there is something in it.
    """
    eos = str(getattr(tokenizer, "eos_token", None) or "")
    if eos and text[start:stop].endswith(eos):
        stop -= len(eos)
    return start, stop


def _behind_prompt(
    text: str, turns: list[Turn], i: int, tokenizer: Any, tools: list | None
) -> Span | None:
    """Where in `text` lies what turn i adds behind the generation prompt; None if unknown.

    For templates that refuse a conversation without its calls. The place is told by a mark behind
    the turn before, or if the template spells that out, by all that comes before.
    """
    (mark,) = make_marks(1, text)
    attempts = [(turns, "")]
    if i > 0:
        marked = [dict(turn) for turn in turns]
        marked[i - 1]["content"] += mark
        attempts = [(marked, mark), (turns, "")]
    for some, cut in attempts:
        span = _added_by(some, i, cut, text, tokenizer, tools)
        if span and not _lacks_call(text[slice(*span)], turns[i]):
            return span
    return None


def _added_by(
    turns: list[Turn], i: int, cut: str, text: str, tokenizer: Any, tools: list | None
) -> Span | None:
    """Where in `text` lies what turn i adds behind the generation prompt; None if unknown.

    `cut` is a mark that the turns hold once, or "". What is before it is not compared.
    """
    try:
        whole = render(turns, tokenizer, tools)
        asked = render(turns[:i], tokenizer, tools, add_generation_prompt=True)
        answered = render(turns[: i + 1], tokenizer, tools)
    except BadRow:
        return None
    before, *rest = whole.split(cut) if cut else ("", whole)
    if len(rest) != 1 or before + rest[0] != text:
        return None
    if cut:
        asked = asked.split(cut)[-1]
        answered = answered.split(cut)[-1]
    if not (rest[0].startswith(answered) and answered.startswith(asked)):
        return None
    return _without_eos(text, len(before) + len(asked), len(before) + len(answered), tokenizer)


def _lacks_call(text: str, turn: Turn) -> bool:
    """Whether the rendering of a turn's calls lacks one of them: some templates write the first.

    Names count as often as they are called; of arguments, whose quotes and letters may be escaped
    in several ways, the words.
    """
    functions = [call["function"] for call in turn["tool_calls"]]
    names = Counter(function["name"] for function in functions)
    if any(text.count(name) < n for name, n in names.items()):
        return True
    parts = (part for function in functions for part in _strings(function["arguments"]))
    words = {word for part in parts for word in WORD.findall(part)}
    return any(word not in text for word in words)


def _strings(value: Any) -> Iterator[str]:
    """The keys and texts of a JSON value."""
    if isinstance(value, dict):
        for key, some in value.items():
            yield key
            yield from _strings(some)
    elif isinstance(value, list):
        for some in value:
            yield from _strings(some)
    elif isinstance(value, str):
        yield value


def _n_equal(a: Iterable[str], b: Iterable[str]) -> int:
    """The number of characters that two texts have in common at their beginning."""
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))
    return sum(1 for _ in alike)
