"""texts: where the texts of the assistant's turns lie in a rendering.

The conversation is rendered once more with a mark behind each of these texts. Where taking the
marks out again gives the first rendering, each mark shows where its text ends, whatever the
template wrote around it; the text must then stand right before it.
"""

from typing import Any, NamedTuple

from rsr_ray.corpus.turns import REASONING, Turn
from rsr_ray.encode.found import Span
from rsr_ray.encode.marks import make_marks
from rsr_ray.encode.rendering import render
from rsr_ray.errors import BadRow


class Slot(NamedTuple):
    """A text of the n-th assistant turn: a field of turn `turn`."""

    turn: int
    field: str
    n: int


class Padded(NamedTuple):
    """A text with the white space at its ends apart."""

    lead: str
    body: str
    trail: str

    @classmethod
    def of(cls, text: str) -> "Padded":
        body = text.strip()
        start = text.index(body)
        return cls(text[:start], body, text[start + len(body) :])

    def kept(self, front: int, back: int) -> str:
        """The text with so many characters of the white space at its ends."""
        start = len(self.lead) - front
        return (self.lead + self.body + self.trail)[start : start + front + len(self.body) + back]


def slots_of(turns: list[Turn]) -> list[Slot]:
    """The texts of the assistant's turns that are more than white space, in the order of turns."""
    answers = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    return [
        Slot(i, field, n)
        for n, i in enumerate(answers, 1)
        for field in (*REASONING, "content")
        if turns[i].get(field, "").strip()
    ]


def find_texts(
    turns: list[Turn], slots: list[Slot], text: str, tokenizer: Any, tools: list | None
) -> list[Span]:
    """Where the texts lie in the rendering `text`. Raises BadRow for one that is not as it was."""
    marks = make_marks(len(slots), text)
    if not slots:
        return []
    padded = [Padded.of(turns[slot.turn][slot.field]) for slot in slots]
    marked = list(zip(padded, marks, strict=True))

    def pieces(texts: list[str]) -> list[str]:
        """The rendering with these texts in the slots, cut at the marks."""
        changed = [dict(turn) for turn in turns]
        for slot, some in zip(slots, texts, strict=True):
            changed[slot.turn][slot.field] = some
        return _cut_in_order(render(changed, tokenizer, tools), marks, padded, slots, text)

    whole = pieces([p.lead + p.body + mark + p.trail for p, mark in marked])
    if "".join(whole) != text:
        raise BadRow(
            "template_error",
            "the template renders the conversation differently if a marker is added to a turn's "
            "text",
        )
    without_trail = bare = whole
    if any(p.lead or p.trail for p in padded):
        without_trail = pieces([p.lead + p.body + mark for p, mark in marked])
        bare = pieces([p.body + mark for p, mark in marked])
    # Text k ends where piece k ends. The white space that the template keeps is what the rendering
    # is longer with it than without: in front of the text in piece k, behind it in piece k + 1.
    spans = []
    end = 0
    for k, p in enumerate(padded):
        end += len(whole[k])
        front = len(without_trail[k]) - len(bare[k])
        back = len(whole[k + 1]) - len(without_trail[k + 1])
        start = end - len(p.body) - front
        stop = end + back
        if text[start:stop] != p.kept(front, back):
            header = pieces(marks)[k]
            raise _altered(p.body, whole[k][len(header) :], slots[k].n)
        spans.append((start, stop))
    return spans


def _cut_in_order(
    text: str, marks: list[str], padded: list[Padded], slots: list[Slot], plain: str
) -> list[str]:
    """The text cut at the marks. Raises BadRow if one is not there; `plain` is without marks."""
    pieces = []
    for mark, p, slot in zip(marks, padded, slots, strict=True):
        piece, found, text = text.partition(mark)
        if not found and p.body not in plain:
            raise BadRow(
                "template_drops_response", f"assistant turn {slot.n} is not in the rendering"
            )
        if not found:
            raise BadRow(
                "template_error", f"cannot find where assistant turn {slot.n} ends in the rendering"
            )
        pieces.append(piece)
    return [*pieces, text]


def _altered(body: str, rendered: str, n: int) -> BadRow:
    """The reject for a turn of which the template made something else."""
    if len("".join(rendered.split())) < len("".join(body.split())):
        kept = f"{len(rendered)} of {len(body)} characters"
        return BadRow(
            "template_drops_response",
            f"assistant turn {n}: the template leaves out text; {kept} are rendered",
        )
    pairs = enumerate(zip(body, rendered, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), len(rendered))
    was = body[at : at + 40]
    now = rendered[at : at + 40]
    return BadRow(
        "template_changes_response",
        f"assistant turn {n}: the template rewrites {was!r} as {now!r}",
    )
