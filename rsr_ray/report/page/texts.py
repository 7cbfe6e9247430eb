"""texts: the conversations of trajectories as the corpus has them, abridged for the page."""

import itertools
import json
from typing import NamedTuple

from rsr_ray.corpus.images import MARK
from rsr_ray.corpus.row_faults import Row
from rsr_ray.corpus.turns import is_scored

PROMPT_SHARE = 0.25  # at most, of what is shown of a long conversation
OPENING_SHARE = 0.6  # the rest is the end
PART = 30  # bytes of a part without its text
# Bytes of a character in the page: as JSON that stands in HTML.
COSTS = {chr(n): 6 for n in range(0x20)} | dict.fromkeys("<>&'", 6) | dict.fromkeys('"\\\n\r\t', 2)


class Part(NamedTuple):
    """A stretch of a turn's text."""

    role: str  # "" if it goes on with the turn of the part before
    text: str
    left_out: int  # characters after it that are not shown


def text_of_row(row: Row, most: int) -> list[Part]:
    """The conversation of a READ_ROWS value, at most about `most` bytes of the page.

    A long one has its opening and its end; of the turns before the first answer no more than
    PROMPT_SHARE is shown if that leaves out some of the rest.
    """
    turns = json.loads(row["messages"])
    n_prompt = next((i for i, turn in enumerate(turns) if is_scored(turn)), len(turns))
    texts = [(turn["role"], _text(turn)) for turn in turns]
    prompt, answer = texts[:n_prompt], texts[n_prompt:]
    needed = sum(_cost(text) for _, text in answer)
    before = _abridged(prompt, max(int(PROMPT_SHARE * most), most - needed))
    spent = sum(_cost(part.text) for part in before)
    return [*before, *_abridged(answer, most - spent)]


def _text(turn: Row) -> str:
    """A turn's text, with its tool calls as JSON below it."""
    calls = [call["function"] for call in turn.get("tool_calls", ())]
    said = [json.dumps(call, ensure_ascii=False) for call in calls]
    content = turn["content"].replace(MARK, "[image]") if turn.get("images") else turn["content"]
    text = "\n".join(some for some in (content, *said) if some)
    return text.encode("utf-8", "replace").decode()  # a call may hold half a surrogate pair


def _abridged(turns: list[tuple[str, str]], most: int) -> list[Part]:
    """The opening and the end of some turns, as much as costs `most`."""
    if sum(_cost(text) for _, text in turns) <= most:
        return [Part(role, text, 0) for role, text in turns]
    opening = int(OPENING_SHARE * most)
    heads = _fitting([text for _, text in turns], opening)
    tails = _fitting([text[::-1] for _, text in turns[::-1]], most - opening)[::-1]
    parts: list[Part] = []
    for (role, text), head, tail in zip(turns, heads, tails, strict=True):
        left_out = len(text) - head - tail
        if left_out <= 0:
            parts.append(Part(role, text, 0))
            continue
        if head or not parts:
            parts.append(Part(role, text[:head], 0))
        last = parts.pop()
        parts.append(last._replace(left_out=last.left_out + left_out))
        if tail:
            parts.append(Part("" if head else role, text[-tail:], 0))
    return parts


def _fitting(texts: list[str], most: int) -> list[int]:
    """How many characters of each text fit, one text after the other."""
    sizes = []
    for text in texts:
        room = most - PART
        costs = itertools.accumulate(COSTS.get(c) or len(c.encode()) for c in text[: max(0, room)])
        sizes.append(sum(1 for cost in costs if cost <= room))
        most = most - _cost(text) if sizes[-1] == len(text) else 0
    return sizes


def _cost(text: str) -> int:
    return PART + len(text.encode()) + sum(text.count(c) * (n - 1) for c, n in COSTS.items())
