"""encode: conversations -> token ids and the exact spans of scored tokens, in tasks of Ray's.

`locate.find` finds the assistant's texts in the rendering, `tokens.tokenize` the tokens in these.
"""

import functools
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyarrow as pa

from rsr_ray.corpus.row_faults import Row, row_boundary
from rsr_ray.corpus.turns import Turn
from rsr_ray.encode.aside import SECONDS, Aside, Ended, time_limit
from rsr_ray.encode.degenerate import measure
from rsr_ray.encode.found import Found
from rsr_ray.encode.how import How
from rsr_ray.encode.locate import find
from rsr_ray.encode.placed import with_images
from rsr_ray.encode.tokens import Encoded, tokenize
from rsr_ray.errors import BadRow, RunError
from rsr_ray.guard import GUARD_COLUMNS
from rsr_ray.student.tokenizer import load_tokenizer
from rsr_ray.student.vision import Eyes, load_eyes
from rsr_ray.unit_rows import ENCODED_ROWS
from rsr_ray.watch import attempt, in_task

ADDED = (*Encoded._fields, *GUARD_COLUMNS)  # what an ENCODED_ROWS value has more
Limit = Callable[[], AbstractContextManager[None]]  # of the time that a row's rendering may take


class Encode:
    """Ray Data UDF over units: READ_ROWS in, ENCODED_ROWS out, one row for one row.

    A row may make native code end the whole process, or a template run for ever, which the kernel
    ends the process for. Ray then starts the task again, and forever; so from the second try on
    rows are encoded in a process aside, one after the other, and the row that ends it is rejected.
    """

    def __init__(self, student: str, how: How):
        self.student = student
        self.how = how

    def __call__(self, unit: pa.Table) -> pa.Table:
        (rows,) = unit["rows"].to_pylist()
        encoded = self.encode_here(rows) if attempt() == 0 else self.encode_aside(rows)
        return with_rows(unit, encoded)

    def encode_here(self, rows: list[Row]) -> list[Row]:
        """What `encode_rows` gives.

        In a task of Ray's, which is done again, the process may end over it.
        """
        limit = time_limit if in_task() else nullcontext
        return encode_rows(rows, self.student, self.how, limit=limit)

    def encode_aside(self, rows: list[Row]) -> list[Row]:
        """What `encode_rows` gives, by processes that may end.

        Raises RunError if the template never ends at all.
        """
        done = []
        with Aside(_encoder, self.student, self.how) as aside:
            for row in rows:
                try:
                    done.append(aside.ask(row))
                except Ended as e:
                    if e.over_time:
                        check_template(aside)
                    done.append(_rejected(row, reject_of(e, self.how)))
        return done


def with_rows(unit: pa.Table, encoded: list[Row]) -> pa.Table:
    """A unit with ENCODED_ROWS values in place of its rows."""
    rows = pa.array([encoded], pa.list_(ENCODED_ROWS))
    return unit.set_column(unit.schema.get_field_index("rows"), "rows", rows)


def _encoder(student: str, how: How) -> Callable[[Row], Row]:
    """For a process aside: what `encode_row` gives for a row."""
    tokenizer, eyes = _loaded(student, how)
    return functools.partial(encode_row, tokenizer=tokenizer, how=how, limit=time_limit, eyes=eyes)


def finder(student: str, how: How) -> Callable[[tuple[list[Turn], list | None]], Found]:
    """For a process aside: what `find` gives for turns and tools."""
    tokenizer = load_tokenizer(student, how.chat_template, how.proof)

    def answer(question: tuple[list[Turn], list | None]) -> Found:
        turns, tools = question
        with time_limit():
            return find(turns, tokenizer, how, tools)

    return answer


def encode_rows(rows: list[Row], student: str, how: How, limit: Limit = nullcontext) -> list[Row]:
    """READ_ROWS values as ENCODED_ROWS values, in their order."""
    tokenizer, eyes = _loaded(student, how)
    return [encode_row(row, tokenizer, how, limit, eyes) for row in rows]


def _loaded(student: str, how: How) -> tuple[Any, Eyes | None]:
    """The student's tokenizer, and its eyes where it has some."""
    tokenizer = load_tokenizer(student, how.chat_template, how.proof)
    return tokenizer, load_eyes(student) if how.sees else None


def encode_row(
    row: Row, tokenizer: Any, how: How, limit: Limit = nullcontext, eyes: Eyes | None = None
) -> Row:
    """A READ_ROWS value as an ENCODED_ROWS value; rejected rows pass through."""
    messages = row.pop("messages")
    tools = row.pop("tools")
    row |= dict.fromkeys(ADDED)
    if row["reject_reason"] is not None:
        return row
    try:
        with row_boundary("encoding the row"):
            turns = json.loads(messages)
            functions = json.loads(tools) if tools else None
            with limit():
                found = find(turns, tokenizer, how, functions)
            found = with_images(found, row["images"] or [], eyes)
            encoded = tokenize(found, tokenizer, how)
            guard = measure(turns, found, encoded, row.get("complete"))
            row |= encoded._asdict() | guard._asdict()
            if row["images"]:  # none of those behind the last scored token
                row["images"] = row["images"][: len(row["image_stops"])]
    except BadRow as e:
        row["images"] = None
        row["reject_reason"] = e.reason
        row["reject_detail"] = e.detail
    return row


def encode(turns: list[Turn], tokenizer: Any, how: How, tools: list | None = None) -> Encoded:
    """The conversation as the student's template and tokenizer have it. Raises BadRow."""
    return tokenize(find(turns, tokenizer, how, tools), tokenizer, how)


def _rejected(row: Row, reject: BadRow) -> Row:
    """A READ_ROWS value as an ENCODED_ROWS value that is rejected."""
    row = {name: value for name, value in row.items() if name not in ("messages", "tools")}
    why = {"reject_reason": reject.reason, "reject_detail": reject.detail, "images": None}
    return row | why | dict.fromkeys(ADDED)


def reject_of(ended: Ended, how: How) -> BadRow:
    """Why a row over which the process aside ended cannot be scored."""
    if ended.over_time:
        what = "the chat template" + ", or an expression of --segment," * bool(how.segments)
        took = f"took over {SECONDS:g} s of processor time for the row"
        return BadRow("template_error", f"{what} {took}")
    return BadRow("tokenizer_error", "the tokenizer crashed its process on this row")


def check_template(aside: Aside) -> None:
    """Raise RunError if the template takes too long for any conversation: no row is at fault."""
    turns = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    try:
        aside.ask(
            {"messages": json.dumps(turns), "tools": None, "images": None, "reject_reason": None}
        )
    except Ended as e:
        if e.over_time:
            raise RunError(
                f"the student's chat template took over {SECONDS:g} s of processor time for a "
                "conversation of two words: does it loop forever? Try it with rsr-ray doctor"
            ) from None
