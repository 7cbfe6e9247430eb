"""encode: conversations -> token ids and the exact spans of scored tokens, by the student's own template and tokenizer.

Where a turn's text lies in the rendering is found from the template itself, not from a table of markers. The
conversation is rendered as it is, and once more with a mark of two private-use characters behind each assistant turn's
text. Where taking the marks out again gives the first rendering, each mark shows where its turn ends, whatever the
template wrote around it; the turn's text must then stand right before it.
"""

import json
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import numpy as np
import pyarrow as pa

from rsr_ray.read import BadRow
from rsr_ray.schema import ENCODED_ROWS
from rsr_ray.student import load_tokenizer
from rsr_ray.watch import attempt

Message = dict[str, str]

# A template that prints today's date would give the same trajectory another score tomorrow. This macro hides the
# function that tells it; the date is the one that Llama-3.1's template falls back to.
FIXED_DATE = "".join(
    [
        "{% macro strftime_now(format) %}{{ format",
        *(f" | replace('%{code}', '{value}')" for code, value in {"Y": "2024", "m": "07", "d": "26", "b": "Jul", "B": "July", "y": "24"}.items()),
        " | replace('%A', 'Friday') | replace('%a', 'Fri') | replace('%H', '00') | replace('%M', '00') | replace('%S', '00') }}{% endmacro %}\n",
    ]
)


class Encode:
    """Ray Data UDF over units: READ_ROWS in, ENCODED_ROWS out, one row for one row.

    A row may make native code end the whole process. Ray then starts the task again, and forever; so from the second try on
    rows are encoded in a process aside, and the row that ends it is rejected.
    """

    def __init__(self, student: str, max_length: int):
        self.student, self.max_length = student, max_length

    def __call__(self, unit: pa.Table) -> pa.Table:
        (rows,) = unit["rows"].to_pylist()
        encoded = encode_rows(rows, self.student, self.max_length) if attempt() == 0 else self.encode_aside(rows)
        return unit.set_column(unit.schema.get_field_index("rows"), "rows", pa.array([encoded], pa.list_(ENCODED_ROWS)))

    def encode_aside(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What `encode_rows` gives, by processes that may die: all rows in one; where that dies, each half in another."""
        done, halves = [], [rows]
        aside = ProcessPoolExecutor(1, get_context("spawn"))
        while halves:
            some = halves.pop()
            try:
                done += aside.submit(encode_rows, some, self.student, self.max_length).result()
            except BrokenProcessPool:
                aside = ProcessPoolExecutor(1, get_context("spawn"))
                middle = len(some) // 2
                if middle:
                    halves += [some[middle:], some[:middle]]
                    continue
                (row,) = some
                del row["messages"]
                lost = {"reject_reason": "tokenizer_error", "reject_detail": "the tokenizer ended its whole process on this row"}
                done.append({**row, **lost, "input_ids": None, "spans": None})
        aside.shutdown()
        return done


def encode_rows(rows: list[dict[str, Any]], student: str, max_length: int) -> list[dict[str, Any]]:
    """READ_ROWS values as ENCODED_ROWS values, in their order."""
    tokenizer = load_tokenizer(student)
    return [encode_row(row, tokenizer, max_length) for row in rows]


def encode_row(row: dict[str, Any], tokenizer: Any, max_length: int) -> dict[str, Any]:
    """A READ_ROWS value as an ENCODED_ROWS value; rejected rows pass through."""
    messages = row.pop("messages")
    row["input_ids"], row["spans"] = None, None
    if row["reject_reason"] is None:
        try:
            row["input_ids"], row["spans"] = encode(json.loads(messages), tokenizer, max_length)
        except BadRow as e:
            row["reject_reason"], row["reject_detail"] = e.reason, e.detail
    return row


def encode(messages: list[Message], tokenizer: Any, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids int32 [T] up to the last scored token, and spans int32 [2S]: start, stop of each run of scored tokens.

    A token belongs to the turn that its first character belongs to. No special token is added to what the template
    rendered, so there is never a second BOS. Position 0 has no context and is not scored. Raises BadRow.
    """
    text, turns = find_turns(messages, tokenizer)
    backend = tokenizer.backend_tokenizer
    try:
        encoding = backend.encode(text, add_special_tokens=False)
    except BaseException as e:  # a panic inside the tokenizer's Rust code derives from BaseException alone
        if isinstance(e, (KeyboardInterrupt, SystemExit)):
            raise
        raise BadRow("tokenizer_error", f"{type(e).__name__}: {e}"[:300]) from e
    spans = [(_first_token(encoding, a, len(text)), _first_token(encoding, b, len(text))) for a, b in turns]
    spans = [(max(a, 1), b) for a, b in spans if max(a, 1) < b]
    if not spans:
        raise BadRow("empty_response", "no token of the assistant's text can be scored")
    length = spans[-1][1]
    if length > max_length:
        raise BadRow("over_length", f"{length} tokens, limit {max_length}")
    return np.asarray(encoding.ids[:length], dtype=np.int32), np.asarray(spans, dtype=np.int32).reshape(-1)


def _first_token(encoding: Any, position: int, n_chars: int) -> int:
    """Index of the first token whose first character is at `position` or behind it."""
    token = None
    while token is None and position < n_chars:
        token = encoding.char_to_token(position)
        position += token is None  # a character that the tokenizer drops belongs to no token
    if token is None:
        return len(encoding)
    while token < len(encoding) and encoding.token_to_chars(token)[0] < position:
        token += 1
    return token


# --- the place of the assistant's text in the rendering ---------------------------------------------------------------


def find_turns(messages: list[Message], tokenizer: Any) -> tuple[str, list[tuple[int, int]]]:
    """The rendered conversation, and [start, stop) in characters of each assistant turn's text in it.

    White space that the template strips from a turn's ends is not in the span; white space that it keeps is. Raises
    BadRow where the template fails, or leaves out or rewrites any of the assistant's text.
    """
    text = render(messages, tokenizer)
    answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    marks = _marks(len(answers), text)

    def marked(*, lead: bool, trail: bool) -> list[str]:
        """The pieces between the marks when each turn is its text, a mark, and the white space around on request."""
        changed = [dict(m) for m in messages]
        for i, mark in zip(answers, marks, strict=True):
            content = messages[i]["content"]
            body = content.strip()
            at = content.index(body) if body else 0
            before, behind = content[:at], content[at + len(body) :]
            changed[i]["content"] = (before if lead else "") + body + mark + (behind if trail else "")
        return _split(render(changed, tokenizer), marks, messages, answers, text)

    pieces = marked(lead=True, trail=True)
    if "".join(pieces) != text:
        raise BadRow("template_error", "the template renders a conversation differently when a turn's text is extended by a mark")
    kept_before, kept_behind = [0] * len(answers), [0] * len(answers)
    if any(m["content"] != m["content"].strip() for m in messages if m["role"] == "assistant"):
        without_trail = marked(lead=True, trail=False)
        bare = marked(lead=False, trail=False)
        kept_behind = [len(a) - len(b) for a, b in zip(pieces[1:], without_trail[1:], strict=True)]
        kept_before = [len(a) - len(b) for a, b in zip(without_trail[:-1], bare[:-1], strict=True)]

    turns, end = [], 0
    for n, i in enumerate(answers):
        end += len(pieces[n])
        content = messages[i]["content"]
        body = content.strip()
        at = content.index(body) if body else 0
        span = (end - len(body) - kept_before[n], end + kept_behind[n])
        expected = content[at - kept_before[n] : at + len(body) + kept_behind[n]]
        if text[slice(*span)] != expected:
            empty = [m | {"content": marks[answers.index(j)]} if j in answers else m for j, m in enumerate(messages)]
            header = _split(render(empty, tokenizer), marks, messages, answers, text)[n]
            raise _altered(body, pieces[n][len(header) :], n)
        turns.append(span)
    return text, turns


def render(messages: list[Message], tokenizer: Any) -> str:
    """The conversation through the student's chat template, without a generation prompt. Raises BadRow."""
    template = tokenizer.get_chat_template()
    if "strftime_now" in template:
        template = FIXED_DATE + template
    tools: tuple[list | None, ...] = (None, []) if "tools" in template else (None,)  # some templates for tools loop over them unasked
    for given in tools:
        try:
            return tokenizer.apply_chat_template(messages, tools=given, chat_template=template, tokenize=False)
        except Exception as e:  # the template is a program of its own, and anything can go wrong in it
            problem = e
    raise BadRow("template_error", " ".join(str(problem).split())[:300]) from problem


def _marks(n: int, text: str) -> list[str]:
    """n strings that do not occur in the text: private-use characters, which are not white space to any template."""
    free = [chr(c) for c in range(0xE000, 0xF8FF) if chr(c) not in text][:2]
    if len(free) < 2:
        raise BadRow("template_error", "the conversation uses every private-use character")
    return [free[0] + str(i) + free[1] for i in range(n)]


def _split(text: str, marks: list[str], messages: list[Message], answers: list[int], plain: str) -> list[str]:
    pieces = []
    for n, mark in enumerate(marks):
        piece, found, text = text.partition(mark)
        if not found:
            body = messages[answers[n]]["content"].strip()
            if body not in plain:
                raise BadRow("template_drops_response", f"assistant turn {n + 1} is not in the rendering")
            raise BadRow("template_error", f"cannot find where assistant turn {n + 1} ends in the rendering")
        pieces.append(piece)
    return [*pieces, text]


def _altered(body: str, rendered: str, n: int) -> BadRow:
    """The reject for a turn of which the template made something else."""
    if len("".join(rendered.split())) < len("".join(body.split())):
        kept = f"{len(rendered)} of {len(body)} characters"
        return BadRow("template_drops_response", f"assistant turn {n + 1}: the template leaves out text: {kept} are rendered")
    at = next((i for i, (a, b) in enumerate(zip(body, rendered, strict=False)) if a != b), len(rendered))
    return BadRow("template_changes_response", f"assistant turn {n + 1}: the template rewrites {body[at : at + 40]!r} as {rendered[at : at + 40]!r}")
