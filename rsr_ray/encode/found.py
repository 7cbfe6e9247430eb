"""found: a rendered conversation, and where the assistant's texts lie in it."""

from typing import NamedTuple

import numpy as np

Span = tuple[int, int]  # [start, stop) in characters


class Found(NamedTuple):
    """A rendered conversation, and where the assistant's texts lie in it."""

    text: str
    spans: list[Span]  # of the assistant's texts, in their order
    turns: list[int]  # the turn that each belongs to, 0-based
    parts: list[str]  # what each is: reasoning, answer or tool_calls
    segments: np.ndarray | None = None  # uint8 [len(text)], where it is asked for: segments.py
    images: tuple[Span, ...] = ()  # where what stands for each image lies


class Assembly:
    """A rendering that is put together piece by piece."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0
        self._spans: list[Span] = []
        self._turns: list[int] = []
        self._parts: list[str] = []

    def add(self, text: str) -> None:
        """Text that is not the assistant's."""
        self._pieces.append(text)
        self._length += len(text)

    def say(self, text: str, turn: int, part: str = "answer") -> None:
        """Text that the assistant says in a turn."""
        self._spans.append((self._length, self._length + len(text)))
        self._turns.append(turn)
        self._parts.append(part)
        self.add(text)

    def found(self) -> Found:
        return Found("".join(self._pieces), self._spans, self._turns, self._parts)
