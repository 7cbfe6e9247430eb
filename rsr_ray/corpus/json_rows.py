"""The rows of a JSON file, line by line or as whole values, in bounded memory.

Lines are split in linear time. Whole values are the elements of an array, objects that are printed
over several lines, or the list in `{"data": [...]}`.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator

from rsr_ray.corpus.json_text import (
    DECODER,
    READ_BYTES,
    ROW_BYTES,
    TOO_LONG,
    Source,
    Text,
    is_cut,
    past_space,
)
from rsr_ray.corpus.row_faults import Row, Unreadable, one_line

HOPELESS_ROWS = 1000  # so many unreadable rows and no other: the shard is not what its ending says
UTF8_MARK = codecs.BOM_UTF8
OPENS_ROWS = re.compile(r"\[\s*[{\]]")


def json_rows(stream: Source, *, lines_only: bool, known: frozenset[str]) -> Iterator[Row]:
    """The rows of a stream of JSON text; of one that is not `lines_only` in any of its layouts.

    `known` are the names of a row's columns: an object without any of them may wrap the list of
    rows. Raises ValueError where the text breaks and no later row can be found.
    """
    head = stream.read(READ_BYTES)
    if problem := not_utf8(head):
        yield Unreadable(problem, shard=True)
        return
    head = head.removeprefix(UTF8_MARK)
    yield from _unless_hopeless(
        _line_rows(head, stream) if lines_only else _rows(head, stream, known)
    )


def not_utf8(head: bytes) -> str | None:
    """Why bytes that begin a file are no text in UTF-8, or None."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "the file is UTF-16: convert it to UTF-8"
    if b"\0" in head[:4]:
        return (
            "the file begins with zero bytes: it is binary, was cut off while it was written, "
            "or is UTF-16; expected JSON in UTF-8"
        )
    return None


def _unless_hopeless(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows, or one mark for the whole shard where no row can be read."""
    held: list[Unreadable] = []
    hopeful = False
    for row in rows:
        if hopeful:
            yield row
        elif isinstance(row, Unreadable):
            held.append(row)
            if len(held) == HOPELESS_ROWS:
                break
        else:
            hopeful = True
            yield from held
            yield row
    if held and not hopeful:
        yield Unreadable(
            f"none of its first {len(held):,} row(s) can be read: {held[0].detail}", shard=True
        )


def _line_rows(head: bytes, stream: Source) -> Iterator[Row]:
    for line in split_lines(head, stream):
        if line is None:
            yield TOO_LONG
        elif line.strip():
            yield _line_row(line)


def _line_row(line: bytes) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as e:
        return Unreadable(f"not JSON: {one_line(e)}")
    return row if isinstance(row, dict) else Unreadable("the line is not a JSON object")


def split_lines(chunk: bytes, stream: Source) -> Iterator[bytes | None]:
    """Lines of a stream of which `chunk` was read already; None for one longer than ROW_BYTES.

    A read that fails comes after the lines before it.
    """
    parts: list[bytes] = []
    size = 0
    while chunk:
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            stream.n_held = max(0, stream.n_held - len(end) - 1)
            yield b"".join([*parts, end]) if size + len(end) <= ROW_BYTES else None
            parts.clear()
            size = 0
        size += len(rest)
        if size <= ROW_BYTES:
            parts.append(rest)
        else:
            parts.clear()
        chunk = stream.read(READ_BYTES)
    if size:
        yield b"".join(parts) if size <= ROW_BYTES else None


def _rows(head: bytes, stream: Source, known: frozenset[str]) -> Iterator[Row]:
    """Rows of a `.json` file: an array, lines, objects in a row, or one object around a list."""
    first = head.lstrip()[:1]
    if first not in (b"[", b"{"):
        yield from _line_rows(head, stream)
        return
    start = codecs.getincrementaldecoder("utf-8")("replace").decode(head).lstrip()
    inside = None if first == b"[" or _is_whole_line(start) else _list_of(start, known)
    if first == b"[":
        yield from _list_rows(Text(head, stream))
    elif inside is not None:
        yield from _list_rows(Text(head, stream), inside, known)
    elif _is_lines(start, whole=len(head) < READ_BYTES):
        yield from _line_rows(head, stream)
    else:
        text = Text(head, stream)
        while text.peek():
            yield text.row()


def _is_whole_line(start: str) -> bool:
    """Whether text begins with a value on a line of its own and goes on behind it."""
    try:
        _, end = DECODER.raw_decode(start)
    except (ValueError, RecursionError):
        return False
    return "\n" not in start[:end] and bool(start[end:].strip())


def _is_lines(start: str, *, whole: bool) -> bool:
    """Whether a text that begins so is read line by line: then a broken line is one row."""
    try:
        _, end = DECODER.raw_decode(start)
    except json.JSONDecodeError as e:
        return whole or "\n" not in start or not is_cut(e)
    except RecursionError:
        return True
    return "\n" not in start[:end]


def _list_of(start: str, known: frozenset[str]) -> int | None:
    """Where the list of rows begins in an object that has none of a row's known names."""
    at = 1
    try:
        while True:
            name, at = DECODER.raw_decode(start, past_space(start, at))
            at = past_space(start, at)
            if not isinstance(name, str) or name in known or start[at] != ":":
                return None
            at = past_space(start, at + 1)
            if OPENS_ROWS.match(start, at):
                return at
            _, at = DECODER.raw_decode(start, at)
            at = past_space(start, at) + 1
            if start[at - 1] != ",":
                return None
    except (ValueError, IndexError, RecursionError):
        return None


def _list_rows(
    text: "Text", inside: int | None = None, known: frozenset[str] = frozenset()
) -> Iterator[Row]:
    """The elements of the array that the text is, or that lies `inside` the object that it is."""
    text.peek()
    text.at += 1 + (inside or 0)
    if text.peek() == "]":
        text.at += 1
    else:
        while True:
            yield text.row()
            if text.take(",]") == "]":
                break
    if inside is not None:
        while text.take(",}") == ",":
            text.peek()
            name = text.value()
            text.take(":")
            text.peek()
            value = text.value()
            if name in known or (isinstance(value, list) and value and isinstance(value[0], dict)):
                raise ValueError(
                    f"the object around the list of rows also has {name!r:.60}, which may hold "
                    "rows too: keep one of the two"
                )
    if text.peek():
        raise ValueError("there is more text after the list of rows")
