"""json_rows: the rows of a JSON file, line by line or as whole values, in bounded memory.

Lines are split in linear time. Whole values (the elements of an array, objects that are printed over several lines, the
list in `{"data": [...]}`) are parsed by the standard library's decoder from a text that grows only while a value is cut:
so NaN, long integers, huge floats and half surrogate pairs read as `json.loads` reads them in a line. The streaming parser
of yajl refuses all four.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rsr_ray.row_faults import one_line

READ_BYTES = 256 << 10  # what is lost of a cut-off stream before the cut is at most this much text
# The longest row: 16 million tokens at 4 bytes, more than any student scores. Python needs some
# copies of a row at once, and a file without a line break must not take all memory.
ROW_BYTES = 64 << 20
HOPELESS_ROWS = 1000  # so many unreadable rows and no other: the shard is not what its ending says
UTF8_MARK = codecs.BOM_UTF8
DECODER = json.JSONDecoder()
SPACE = re.compile(r"[ \t\n\r]*")
MARKS = re.compile(r'"(?:[^"\\]++|\\.)*+(")?|[\[\]{}]', re.DOTALL)  # strings and brackets
OPENS_ROWS = re.compile(r"\[\s*[{\]]")
LONGEST_MARK = 16  # characters of a literal or an escape that may be cut: -Infinity, \ud83d\ude00


@dataclass(frozen=True)
class Unreadable:
    """Stands where a row should be: a broken line, or (`shard`) the place from which the object cannot be read."""

    detail: str
    shard: bool = False
    reason: str = "unreadable_row"  # of one row


Row = dict[str, Any] | Unreadable
TOO_LONG = Unreadable(f"the row is longer than {ROW_BYTES >> 20} MiB, the most that is read of one row")


def json_rows(stream: pa.NativeFile, *, lines_only: bool, known: frozenset[str]) -> Iterator[Row]:
    """The rows of a stream of JSON text; of one that is not `lines_only` in any of its layouts.

    `known` are the names of a row's columns: an object without any of them may wrap the list of rows.
    Raises ValueError where the text breaks and no later row can be found.
    """
    head = stream.read(READ_BYTES)
    if problem := not_utf8(head):
        yield Unreadable(problem, shard=True)
        return
    head = head.removeprefix(UTF8_MARK)
    yield from _unless_hopeless(_line_rows(head, stream) if lines_only else _rows(head, stream, known))


def not_utf8(head: bytes) -> str | None:
    """Why bytes that begin a file are no text in UTF-8, or None."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "the file is UTF-16: convert it to UTF-8"
    if b"\0" in head[:4]:
        return "the file begins with zero bytes: it is binary, cut off before it was written, or UTF-16; not JSON in UTF-8"
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
        yield Unreadable(f"none of its first {len(held):,} row(s) can be read: {held[0].detail}", shard=True)


# --- lines ------------------------------------------------------------------------------------------------------------


def _line_rows(head: bytes, stream: pa.NativeFile) -> Iterator[Row]:
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


def split_lines(chunk: bytes, stream: pa.NativeFile) -> Iterator[bytes | None]:
    """Lines of a stream of which `chunk` was read already; None for one longer than ROW_BYTES.

    A read that fails comes after the lines before it.
    """
    parts: list[bytes] = []
    size = 0
    while chunk:
        *ends, rest = chunk.split(b"\n")
        for end in ends:
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


# --- whole values -----------------------------------------------------------------------------------------------------


def _rows(head: bytes, stream: pa.NativeFile, known: frozenset[str]) -> Iterator[Row]:
    """Rows of a `.json` file: an array, lines, objects one after the other, or one object around a list."""
    first = head.lstrip()[:1]
    if first not in (b"[", b"{"):
        yield from _line_rows(head, stream)
        return
    start = codecs.getincrementaldecoder("utf-8")("replace").decode(head).lstrip()
    inside = None if first == b"[" or _is_whole_line(start) else _list_of(start, known)
    if first == b"[":
        yield from _list_rows(_Text(head, stream))
    elif inside is not None:
        yield from _list_rows(_Text(head, stream), inside, known)
    elif _is_lines(start, whole=len(head) < READ_BYTES):
        yield from _line_rows(head, stream)
    else:
        text = _Text(head, stream)
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
    """Whether a text that begins so, with an object, is read line by line: then a broken line is one row."""
    try:
        _, end = DECODER.raw_decode(start)
    except json.JSONDecodeError as e:
        return whole or "\n" not in start or not _is_cut(e)
    except RecursionError:
        return True
    return "\n" not in start[:end]


def _list_of(start: str, known: frozenset[str]) -> int | None:
    """Where the list of rows begins in an object that is no row itself: it has none of the known names."""
    at = 1
    try:
        while True:
            name, at = DECODER.raw_decode(start, _past_space(start, at))
            at = _past_space(start, at)
            if not isinstance(name, str) or name in known or start[at] != ":":
                return None
            at = _past_space(start, at + 1)
            if OPENS_ROWS.match(start, at):
                return at
            _, at = DECODER.raw_decode(start, at)
            at = _past_space(start, at) + 1
            if start[at - 1] != ",":
                return None
    except (ValueError, IndexError, RecursionError):
        return None


def _list_rows(text: "_Text", inside: int | None = None, known: frozenset[str] = frozenset()) -> Iterator[Row]:
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
                raise ValueError(f"the object around the list of rows also has {name!r:.60}: which of them is the corpus?")
    if text.peek():
        raise ValueError("something follows the list of rows")


class _TooLong(Exception):
    """A value is longer than ROW_BYTES."""


class _Text:
    """The text of a stream from `at` on, as much of it as was needed so far."""

    def __init__(self, head: bytes, stream: pa.NativeFile):
        # Half a surrogate pair passes, as json.loads lets it; a row that holds one is rejected by name.
        self.decoder = codecs.getincrementaldecoder("utf-8")("surrogatepass")
        self.stream, self.text, self.at, self.ended = stream, self.decoder.decode(head), 0, not head

    def more(self) -> bool:
        """Read as much again as is held, so that parsing it again stays linear; False at the end."""
        if self.ended:
            return False
        held = self.text[self.at :]
        data = self.stream.read(max(READ_BYTES, len(held)))
        self.ended = not data
        self.text, self.at = held + self.decoder.decode(data, final=self.ended), 0
        return not self.ended

    def peek(self) -> str:
        """The next character that is no white space, from which `at` is then; "" at the end."""
        while True:
            self.at = _past_space(self.text, self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def take(self, marks: str) -> str:
        """Pass over the next character. Raises ValueError if it is none of `marks`."""
        mark = self.peek()
        if not mark or mark not in marks:
            raise ValueError(f"expected {' or '.join(marks)} behind a value, found {mark or 'the end of the file'}")
        self.at += 1
        return mark

    def row(self) -> Row:
        """The next value as a row. Raises ValueError where the text is no JSON."""
        self.peek()
        try:
            value = self.value()
        except (RecursionError, _TooLong) as e:
            self.skip()
            return TOO_LONG if isinstance(e, _TooLong) else Unreadable(f"not JSON: {one_line(e)}")
        return value if isinstance(value, dict) else Unreadable("an element of the array is not a JSON object")

    def value(self) -> Any:
        """The value that begins right here. Raises ValueError, and with `at` unmoved RecursionError and _TooLong."""
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as e:
                if self.ended or not _is_cut(e):
                    raise ValueError(str(e)) from None  # without the text, which the error holds on to
            else:
                if end - self.at > ROW_BYTES:
                    raise _TooLong
                if end < len(self.text) or self.ended:  # a number may go on in what is not read yet
                    self.at = end
                    return value
            if len(self.text) - self.at > ROW_BYTES:
                raise _TooLong
            self.more()

    def skip(self) -> None:
        """Pass over a value by its quotes and brackets alone. Raises ValueError where it has no end."""
        depth = 0
        while True:
            for mark in MARKS.finditer(self.text, self.at):
                if mark[0][0] == '"' and not mark[1]:
                    self.at = mark.start()
                    break
                self.at = mark.end()
                depth += (mark[0] in "[{") - (mark[0] in "]}")
                if depth <= 0:
                    return
            else:
                self.at = len(self.text)
            if len(self.text) - self.at > 2 * ROW_BYTES or not self.more():
                raise ValueError("a value that could not be read has no end")


def _past_space(text: str, at: int) -> int:
    found = SPACE.match(text, at)
    assert found
    return found.end()


def _is_cut(e: json.JSONDecodeError) -> bool:
    """Whether the text of an error may only have been cut: all it says is that something is missing at the end."""
    return e.msg.startswith("Unterminated string") or e.pos >= len(e.doc) - LONGEST_MARK
