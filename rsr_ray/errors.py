"""The ways a command can fail. Bad data is neither: it becomes a rejected row."""

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(ValueError):
    """The user can mend it: a wrong path, option or student. One line, exit code 2."""


class RunError(RuntimeError):
    """The run broke: a lost GPU, a full disk, an equation that does not hold.

    One line, exit code 1.
    """


class StoreError(RunError):
    """A file of the store is not what was written there.

    Its line names the file and says what to do.
    """


class Terminated(KeyboardInterrupt):
    """SIGTERM: how Kubernetes, and a machine that is about to go, say so."""


class BadRow(Exception):
    """A row that cannot be scored: its reason, of the schema's closed list, and what is wrong."""

    def __init__(self, reason: str, detail: str):
        detail = detail.encode(
            "utf-8", "replace"
        ).decode()  # it may quote what no file of the store could hold
        super().__init__(detail)
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[Any, ...]:
        """What goes from one process to another."""
        return BadRow, (self.reason, self.detail)


def safe(text: str) -> str:
    """A text from the data as a terminal may show it.

    Escape sequences, line breaks and marks of direction are spelt out.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def counted(n: int, noun: str, plural: str = "") -> str:
    """A number of things: 1 shard, 2 shards; with `plural` where that is not the noun with an s."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {plural or f'{noun}s'}"


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The question with the known name that is nearest, or nothing."""
    near = difflib.get_close_matches(given, [*known], 1)
    return f"did you mean {near[0]}?" if near else ""


def one_line(e: object, most: int = 200) -> str:
    """What an exception or its text says, in one line of bearable length."""
    return " ".join(str(e).split())[:most] or type(e).__name__
