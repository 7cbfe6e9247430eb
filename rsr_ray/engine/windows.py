"""Rows longer than the student's context, scored in windows that overlap by half."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rsr_ray.engine.scoring import Halves, Images, Work, score_tokens
from rsr_ray.engine.sums import Tokens


class Window(NamedTuple):
    """Ids that go through the student by themselves, and what is scored of them."""

    ids: np.ndarray  # int32 [T]
    spans: np.ndarray  # int32 [2S]
    images: Sequence[bytes] = ()


def score_windows(
    student: Halves,
    ids: list[np.ndarray],
    spans: list[np.ndarray],
    work: Work,
    window: int | None,
    images: Images | None = None,
) -> list[Tokens | None]:
    """`score_tokens`, with rows longer than the window scored in several; none with images is."""
    rows = zip(ids, spans, images or [()] * len(ids), strict=True)
    windows = [[Window(*row)] if row[2] else cut_windows(row[0], row[1], window) for row in rows]
    tokens = iter(score_each(student, list(itertools.chain.from_iterable(windows)), work))
    found = [list(itertools.islice(tokens, len(row))) for row in windows]
    return [
        None
        if any(part is None for part in parts)
        else Tokens.join([part for part in parts if part])
        for parts in found
    ]


def score_each(student: Halves, windows: list[Window], work: Work) -> list[Tokens | None]:
    """`score_tokens` of windows."""
    ids, spans, images = zip(*windows, strict=True) if windows else ((), (), ())
    return score_tokens(student, [*ids], [*spans], work, [*images])


def cut_windows(ids: np.ndarray, spans: np.ndarray, window: int | None) -> list[Window]:
    """A row as windows that overlap by half, each scored token in the first that gives it half a
    window of context.

    The first window scores all its tokens, every later one those behind its middle. Windows without
    scored tokens are left out.
    """
    if window is None or len(ids) <= window:
        return [Window(ids, spans)]
    half = window // 2
    out = []
    for start in range(0, len(ids) - half, window - half):
        first = start + half if start else 0
        inside = np.clip(spans.reshape(-1, 2), first, start + window) - start
        inside = inside[inside[:, 0] < inside[:, 1]]
        if len(inside):
            stop = start + int(inside[-1, 1])
            out.append(Window(ids[start:stop], inside.astype(np.int32).reshape(-1)))
    return out
