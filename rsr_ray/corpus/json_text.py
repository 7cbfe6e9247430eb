"""The text of a JSON file, read no further than is needed, and the values in it.

Values are parsed by the standard library's decoder from a text that grows only while a value is
cut: so NaN, long integers, huge floats and half surrogate pairs read as `json.loads` reads them.
The streaming parser of yajl refuses all four.
"""

import codecs
import io
import json
import re
from typing import Any

import pyarrow as pa

from rsr_ray.corpus.row_faults import Row, Unreadable, one_line

READ_BYTES = 256 << 10  # what is lost of a cut-off stream before the cut is at most this much text
# The longest row: 16 million tokens at 4 bytes, more than any student scores. Python needs some
# copies of a row at once, and a file without a line break must not take all memory.
ROW_BYTES = 64 << 20
DECODER = json.JSONDecoder()
SPACE = re.compile(r"[ \t\n\r]*")
MARKS = re.compile(r'"(?:[^"\\]++|\\.)*+(")?|[\[\]{}]', re.DOTALL)  # strings and brackets
LONGEST_MARK = 16  # characters of a literal or an escape that may be cut: -Infinity, \ud83d\ude00
TOO_LONG = Unreadable(f"the row is longer than {ROW_BYTES >> 20} MiB, the limit for one row")


class Counted(io.RawIOBase):
    """A file that is read from its beginning to its end, and how much of it was."""

    def __init__(self, file: pa.NativeFile):
        self.file, self.n_read = file, 0

    def readable(self) -> bool:
        return True

    def read(self, n: int | None = -1) -> bytes:
        data: bytes = self.file.read(n)
        self.n_read += len(data)
        return data


class Source:
    """A stream of text, and how far into its file the rows reach that were made of it."""

    def __init__(self, file: pa.NativeFile, size: int, compression: str | None):
        """`file` has `size` bytes."""
        self.size, self.counted = size, Counted(file) if compression else None
        self.stream = (
            pa.CompressedInputStream(pa.PythonFile(self.counted), compression)
            if self.counted
            else file
        )
        self.n_read = self.n_held = 0  # bytes of text: read, and of these not yet made rows of

    def read(self, n: int) -> bytes:
        data: bytes = self.stream.read(n)
        self.n_read += len(data)
        self.n_held = len(data)
        return data

    @property
    def share(self) -> float:
        """Of the file, 0 to 1."""
        if not self.n_read or not self.size:
            return 0.0
        n_bytes = self.counted.n_read if self.counted else self.n_read
        return min(1.0, n_bytes / self.size * (1 - self.n_held / self.n_read))


class _TooLong(Exception):
    """A value is longer than ROW_BYTES."""


class Text:
    """The text of a stream from `at` on, as much of it as was needed so far."""

    def __init__(self, head: bytes, stream: Source):
        # Half a surrogate pair passes, as in json.loads; a row with one is rejected by name.
        self.decoder = codecs.getincrementaldecoder("utf-8")("surrogatepass")
        self.stream, self.text, self.at, self.ended = stream, self.decoder.decode(head), 0, not head

    def more(self) -> bool:
        """Read as much again as is held, so that parsing stays linear; False at the end."""
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
            self.at = past_space(self.text, self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def take(self, marks: str) -> str:
        """Pass over the next character. Raises ValueError if it is none of `marks`."""
        mark = self.peek()
        self.stream.n_held = len(self.text) - self.at
        if not mark or mark not in marks:
            raise ValueError(
                f"expected {' or '.join(marks)} after a value, found "
                f"{mark or 'the end of the file'}"
            )
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
        return (
            value
            if isinstance(value, dict)
            else Unreadable("an element of the array is not a JSON object")
        )

    def value(self) -> Any:
        """The value that begins right here.

        Raises ValueError, and with `at` unmoved RecursionError and _TooLong.
        """
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as e:
                if self.ended or not is_cut(e):
                    # Without the text, which the error holds on to.
                    raise ValueError(str(e)) from None
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
        """Pass over a value by its quotes and brackets alone. Raises ValueError without an end."""
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
                raise ValueError("an unreadable value has no end")


def past_space(text: str, at: int) -> int:
    found = SPACE.match(text, at)
    assert found
    return found.end()


def is_cut(e: json.JSONDecodeError) -> bool:
    """Whether an error says only that something is missing at the end, as in a cut text."""
    return e.msg.startswith("Unterminated string") or e.pos >= len(e.doc) - LONGEST_MARK
