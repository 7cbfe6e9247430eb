"""shapes: rows of the shapes in use -> conversations of one shape.

A conversation is a list of turns. A turn has `role` (system, user, assistant, tool) and `content`
(text), an assistant's also `tool_calls` where it made some, and `train` False where it is context
and not scored; a tool's `name` and `tool_call_id` where they are known. Reasoning that lies in a
field of its own becomes `<think>` text in front of the answer, so that the same conversation is the
same in every shape. What the user maps comes before what names suggest.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from rsr_ray.corpus.endings import ENDINGS
from rsr_ray.corpus.identity import numbered
from rsr_ray.corpus.images import COLUMNS as IMAGES
from rsr_ray.corpus.images import MARK, PLACEHOLDER, references_of
from rsr_ray.corpus.pairs import ANSWERS, NAMES, PAIRS, QUESTIONS
from rsr_ray.corpus.row_faults import Row
from rsr_ray.corpus.turns import (
    REASONING,
    ROLES,
    Turn,
    is_switch,
    json_or_none,
    reasoning_of,
    text_of,
    turns_of,
)
from rsr_ray.errors import BadRow

__all__ = [
    "COLUMNS",
    "ID_COLUMNS",
    "REASONING",
    "ROLES",
    "BadRow",
    "Turn",
    "as_it_came",
    "conversation",
    "mapped",
    "samples",
    "shape_of",
]

ID_COLUMNS = ("trajectory_id", "id", "_id")
# What a column may be mapped to; instruction, input and output are Alpaca's names for prompt and
# response.
TEXTS = (
    "messages",
    "conversations",
    "prompt",
    "response",
    "system",
    "tools",
    *REASONING,
    "instruction",
    "input",
    "output",
    *IMAGES,
)
# Further names that are read as they are.
MORE = (*(name for name in NAMES if name not in TEXTS), "history")
COLUMNS = (*ID_COLUMNS, "prompt_id", "teacher", "sample", *TEXTS, *MORE, *ENDINGS)
SHAPE_NAMES = {("instruction", "output"): "instruction + input + output"}
# What a column that is named for one of these leaves out.
INSTEAD = {
    "messages": ("conversations", *ANSWERS, *REASONING),
    "conversations": ("messages", *ANSWERS, *REASONING),
    **dict.fromkeys(ANSWERS, ANSWERS),
}
CHANGED = frozenset((*ANSWERS, *REASONING, *ID_COLUMNS, "sample"))  # what `samples` may change
BLOCKS = (
    "text",
    "thinking",
    "tool_use",
    "output_text",
    "reasoning",
    "image_url",
    "redacted_thinking",
    "refusal",
)


def shape_of(columns: set[str]) -> str | None:
    """The first shape that rows with these columns, mapped names included, have, or None."""
    for name in ("messages", "conversations"):
        if name in columns:
            return name
    pair = next((pair for pair in PAIRS if {*pair} <= columns), None)
    return SHAPE_NAMES.get(pair, " + ".join(pair)) if pair else None


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """The value of a column, or of a path into one (metadata.task_id, choices.0.text), or None."""
    if path in row:
        return row[path]
    found: Any = row
    for key in path.split("."):
        if isinstance(found, str):
            found = json_or_none(found)
        if isinstance(found, dict):
            found = found.get(key)
        elif isinstance(found, list) and key.isdigit() and int(key) < len(found):
            found = found[int(key)]
        else:
            return None
    return found


def mapped(row: Row, columns: Mapping[str, str]) -> Row:
    """A row with its columns under the names they are mapped to, {name: column}.

    Rows without such a column stay as they are. A mapped response is the answer: a list of turns
    beside it is then the prompt, where no other prompt is.
    """
    found = {
        name: value
        for name, column in columns.items()
        if (value := value_at(row, column)) is not None
    }
    if not found:
        return row
    out = {**row, **found}
    if any(name in found for name in ANSWERS):
        turns = {
            name: out.pop(name)
            for name in ("messages", "conversations")
            if out.get(name) is not None and name not in found
        }
        if turns and not any(out.get(name) is not None for name in QUESTIONS):
            out["prompt"] = next(iter(turns.values()))
    # Named answers are the answers, whatever else is called so.
    for name in found.keys() & INSTEAD.keys():
        out |= {other: None for other in INSTEAD[name] if other in out and other not in found}
    if "thinking" in found:  # what the user says is the reasoning, whatever else is called so
        out |= {
            name: None
            for name in REASONING
            if name != "thinking" and name not in found and name in out
        }
    return out


def samples(row: Row) -> Iterator[Row]:
    """A row of one answer as it is; one of a list of answers as a row each, `sample` numbered."""
    name = next((name for name in ANSWERS if row.get(name) is not None), "response")
    answers = _answers(row.get(name))
    if answers is None:
        yield row
        return
    given = next(
        (column for column in ID_COLUMNS if numbered(row.get(column), 0) is not None), None
    )
    for n, answer in enumerate(answers):
        one = {**row, name: answer, "sample": n}
        if given and len(answers) > 1:  # one id for all would count them once
            one[given] = numbered(row[given], n)
        for field in (*REASONING, *ENDINGS):
            if isinstance(row.get(field), list):
                one[field] = row[field][n] if n < len(row[field]) else None
        yield one


def _answers(value: Any) -> list[Any] | None:
    """The answers that a list holds, null ones as empty text; None where a value is one answer."""
    if isinstance(value, dict) and isinstance(value.get("choices"), list):
        value = value["choices"]
    if (
        not isinstance(value, list)
        or not value
        or _is_turns(value)
        or not all(map(_is_answer, value))
    ):
        return None
    if any(isinstance(a, dict) and a.get("type") in BLOCKS for a in value):  # blocks of one answer
        return None
    return ["" if answer is None else answer for answer in value]


def _is_answer(value: Any) -> bool:
    is_text = value is None or isinstance(value, str) or _is_turns(value)
    return is_text or (isinstance(value, dict) and not _has_role(value) and _has_text(value))


def _has_text(answer: Row) -> bool:
    return any(name in answer for name in ("content", "text", "message", "value"))


def as_it_came(row: Row, one: Row, columns: Mapping[str, str]) -> Row:
    """One of the `samples` of the `mapped` row, under the columns that the row came with."""
    names = {column: name for name, column in columns.items() if row.get(column) is not None}
    named = ((column, names.get(column, column)) for column in row)
    return {
        column: one[name] if name in CHANGED and name in one else row[column]
        for column, name in named
    }


def conversation(row: Row) -> list[Turn]:
    """The turns of a row of any shape. Raises BadRow."""
    name = next((name for name in ("messages", "conversations") if row.get(name) is not None), None)
    pair = next((pair for pair in PAIRS if all(row.get(side) is not None for side in pair)), None)
    if name:
        turns = turns_of(row[name])
        _check_read(row, turns, (*REASONING, *ANSWERS), f"--columns {name}={name} leaves it out")
    elif pair:
        turns = _history(row.get("history")) + _asked(row, pair[0]) + _answer(row[pair[1]], row)
        _check_read(row, turns, ANSWERS, f"--columns {pair[1]}={pair[1]} leaves it out")
    else:
        wanted = "messages, conversations, prompt and response, or instruction and output"
        raise BadRow(
            "unreadable_row",
            f"a row needs {wanted} (--columns maps other names); columns: "
            f"{', '.join(map(str, row))[:200]}",
        )
    if (
        isinstance(row.get("system"), str)
        and row["system"]
        and all(t["role"] != "system" for t in turns)
    ):
        turns = [{"role": "system", "content": text_of(row["system"], "system")}, *turns]
    return _with_images(row, turns)


def _with_images(row: Row, turns: list[Turn]) -> list[Turn]:
    """The turns with the images of the row's columns in their places, if there are any. Raises
    BadRow.
    """
    given = references_of(row)
    if given and not any(turn.get("images") for turn in turns):
        turns = [_placed(turn) for turn in turns]
        if not any(turn.get("images") for turn in turns):
            return turns
    places = sum(image is None for turn in turns for image in turn.get("images", ()))
    if places != len(given):
        what = f"{len(given)} images in the row's columns, {places} places for them in its turns"
        raise BadRow("media", what)
    left = iter(given)
    return [
        {**turn, "images": [next(left) if image is None else image for image in turn["images"]]}
        if turn.get("images")
        else turn
        for turn in turns
    ]


def _placed(turn: Turn) -> Turn:
    """A turn whose text says where images are."""
    n = 0 if turn["role"] == "assistant" else turn["content"].count(PLACEHOLDER)
    if not n:
        return turn
    if MARK in turn["content"]:
        raise BadRow("media", "a turn has U+FFFC in its text, which stands for images here")
    return {**turn, "content": turn["content"].replace(PLACEHOLDER, MARK), "images": [None] * n}


def _check_read(row: Row, turns: list[Turn], columns: tuple[str, ...], way_out: str) -> None:
    """Raise BadRow where one of these columns holds text that is in none of the turns."""
    said = " ".join(" ".join(turn["content"].split()) for turn in turns)
    for name in columns:
        value = row.get(name)
        if (
            isinstance(value, str)
            and value.strip()
            and not is_switch(value)
            and " ".join(value.split()) not in said
        ):
            raise BadRow(
                "unread_content",
                f"column {name} has text that is in none of the turns; {way_out}",
            )


def _is_turns(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(t, dict) and _has_role(t) for t in value)
    )


def _has_role(turn: Row) -> bool:
    return turn.get("role") is not None or turn.get("from") is not None


def _history(given: Any) -> list[Turn]:
    """Earlier questions and answers, [[question, answer], ...]: context, which is not scored."""
    turns: list[Turn] = []
    for pair in given or ():
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise BadRow(
                "unreadable_row", f"history is not a list of question-answer pairs: {pair!r:.60}"
            )
        turns.append({"role": "user", "content": text_of(pair[0], "user")})
        turns.append(
            {"role": "assistant", "content": text_of(pair[1], "assistant"), "train": False}
        )
    return turns


def _asked(row: Row, name: str) -> list[Turn]:
    """The turns of a prompt: text, or turns themselves."""
    if _is_turns(row[name]):
        return turns_of(row[name])
    parts = [row[name], *([row["input"]] if name == "instruction" and row.get("input") else [])]
    return [{"role": "user", "content": "\n".join(text_of(part, "user") for part in parts)}]


def _answer(value: Any, row: Row) -> list[Turn]:
    """The turns of a response: text, blocks, turns, or a dict that holds one of them."""
    if isinstance(value, dict):
        message = value["message"] if isinstance(value.get("message"), dict) else value
        value = [{**message, "role": "assistant"}] if _has_text(message) else value
    if _is_turns(value):
        return turns_of(value)
    thought = reasoning_of(row)
    return turns_of(
        [
            {
                "role": "assistant",
                "content": value,
                **({"thinking": thought} if thought is not None else {}),
            }
        ]
    )
