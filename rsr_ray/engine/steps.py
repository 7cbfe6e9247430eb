"""Steps of a row, each scored in a short context: for local naturalness."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from rsr_ray.engine.scoring import Halves, Work
from rsr_ray.engine.windows import Window, score_each

CONTEXT_TOKENS = 1 << 24  # tokens of short contexts that are held at once


class StepsOfRow(NamedTuple):
    """A row, and where its steps are."""

    ids: np.ndarray  # int32 [T]
    spans: np.ndarray  # int32 [2S]
    steps: np.ndarray  # int32 [2K]
    images: Sequence[bytes] = ()
    image_stops: np.ndarray | None = None  # int32 [I]: the token behind each image


def score_steps(
    student: Halves, rows: list[StepsOfRow], work: Work, step_window: float, limit: int | None
) -> np.ndarray:
    """For each row the sum over its steps of their mean surprisal in the short context, float64
    [R].

    NaN where a context did not fit into memory, or not into `limit` tokens.
    """
    sums = np.zeros(len(rows))
    contexts: list[Window] = []
    owners: list[int] = []

    def flush() -> None:
        tokens = score_each(student, contexts, work)
        for owner, found in zip(owners, tokens, strict=True):
            sums[owner] += np.nan if found is None else found.surprisal.mean(dtype=np.float64)
        contexts.clear()
        owners.clear()

    held = 0
    for n, row in enumerate(rows):
        for context in step_contexts(row, step_window, limit):
            if context is None:
                sums[n] = np.nan
                continue
            contexts.append(context)
            owners.append(n)
            held += len(context.ids)
        if held > CONTEXT_TOKENS:
            flush()
            held = 0
    flush()
    return sums


def step_contexts(
    row: StepsOfRow, step_window: float, limit: int | None
) -> Iterator[Window | None]:
    """Each step of a row behind all that is not scored before it (the prompt, headers, tool output)
    and the last steps only.

    `step_window` is the number of steps, or, under 1, their share of those before it, rounded up. A
    context longer than `limit` loses what comes first behind the prompt; None where the prompt and
    the step alone are longer, or there are images, which it could cut.
    """
    ids, spans, steps, images, image_stops = row
    scored = np.zeros(len(ids), bool)
    for start, stop in spans.reshape(-1, 2):
        scored[start:stop] = True
    pairs = steps.reshape(-1, 2)
    for n, (start, stop) in enumerate(pairs):
        back = math.ceil(step_window * n) if step_window < 1 else int(step_window)
        keep = ~scored[:stop]
        keep[pairs[max(0, n - back)][0] :] = True
        context = ids[:stop][keep]
        if limit and len(context) > limit:
            n_last = limit - int(spans[0])
            if n_last < stop - start or len(images):
                yield None
                continue
            context = np.concatenate([context[: spans[0]], context[len(context) - n_last :]])
        length = len(context)
        seen = images[: int((image_stops <= stop).sum())] if image_stops is not None else ()
        yield Window(context, np.array([max(1, length - (stop - start)), length], np.int32), seen)
