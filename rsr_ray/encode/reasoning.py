"""reasoning: the <think> text of an answer, in the field in which a template wants it."""

import re

from rsr_ray.corpus.turns import REASONING, Turn
from rsr_ray.encode.found import Found, Span
from rsr_ray.encode.segments import ANSWER

THINK = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)


def field_of(template: str) -> str | None:
    """The field in which a template wants reasoning."""
    return next((name for name in REASONING if re.search(rf"[.'\"]{name}\b", template)), None)


def split_reasoning(turns: list[Turn], template: str) -> list[Turn]:
    """Leading <think> text moved into the field in which the template wants reasoning.

    Nothing is moved if the template itself knows <think>.
    """
    field = field_of(template)
    if field is None or "<think>" in template or "</think>" in template:
        return turns
    return in_fields(turns, field, alone=False)


def in_fields(turns: list[Turn], field: str, *, alone: bool = True) -> list[Turn]:
    """Leading <think> text moved into `field`; if `alone`, also of turns that hold nothing else."""
    return [_in_field(turn, field, alone=alone) for turn in turns]


def _in_field(turn: Turn, field: str, *, alone: bool) -> Turn:
    if turn["role"] != "assistant":
        return turn
    found = THINK.fullmatch(turn["content"])
    if not found or not found[1].strip():
        return turn
    if not (alone or found[2].strip() or turn.get("tool_calls")):
        return turn
    return {**turn, field: found[1].strip(), "content": found[2].strip()}


def widened(found: Found, turns: list[Turn], split: list[Turn], field: str) -> Found:
    """Spans of reasoning and answer as one span where the rendering has the turn's text as it was.

    So the tags count as they do where a template takes them with the text. `split` are the turns
    with the reasoning in `field`.
    """
    text = found.text
    spans: list[Span] = []
    owners: list[int] = []
    parts: list[str] = []
    for (start, stop), i, part in zip(found.spans, found.turns, found.parts, strict=True):
        # Inside the whole text before it, or beginning in it.
        if owners and owners[-1] == i and start < spans[-1][1]:
            before, end = spans[-1]
            spans[-1] = (before, max(end, stop))
            continue
        whole = turns[i]["content"].strip()
        thought = split[i].get(field)
        at = start - whole.find(thought) if thought and text[start:stop] == thought else -1
        if at >= 0 and text[at : at + len(whole)] == whole:
            start = at
            stop = at + len(whole)
            part = ANSWER  # the tags in it say what is reasoning
        spans.append((start, stop))
        owners.append(i)
        parts.append(part)
    return Found(text, spans, owners, parts)
