"""within_prompts: how two columns of trajectories go together, from answer to answer to the same
prompt.

Both are centred within prompts: what a prompt does to all its answers, a hard one that makes them
long and wrong, say, counts for nothing. Legend: N trajectories, P prompts.
"""

import math
from dataclasses import dataclass

import numpy as np

from rsr_ray.decide.inference import FEWEST, NOTHING, interval
from rsr_ray.decide.json_values import known
from rsr_ray.errors import counted


@dataclass(frozen=True)
class Column:
    """A number of each trajectory, float64 [N]; NaN where there is none."""

    name: str  # in words
    values: np.ndarray


@dataclass(frozen=True, kw_only=True)
class WithinPrompts:
    """The correlation of two columns centred within prompts, and its interval over prompts."""

    correlation: float | None  # Pearson's, from -1 to 1
    low: float | None  # ends of the interval at the confidence
    high: float | None
    n_trajectories: int  # that have both numbers, in prompts with two of them or more
    n_prompts: int  # of these
    n_varying: int  # of these, where both numbers vary: those that speak for or against
    why_null: str | None  # why there is no correlation
    why_no_interval: str | None


def correlate_within(
    a: Column, b: Column, prompt: np.ndarray, confidence: float = 0.95, seed: int = 0
) -> WithinPrompts:
    """Pearson's correlation of two columns, of trajectories that answer the prompts int [N].

    It is the sum of products over the root of the sums of squares, each of a value less the mean
    of its prompt. The interval is `interval`'s of its inverse hyperbolic tangent: what is drawn is
    prompts.
    """
    is_there = ~(np.isnan(a.values) | np.isnan(b.values))
    is_there[is_there] = _has_company(prompt[is_there])
    _, prompt = np.unique(prompt[is_there], return_inverse=True)
    x, y = (_centred(column.values[is_there], prompt) for column in (a, b))
    xy, xx, yy = (np.bincount(prompt, product) for product in (x * y, x * x, y * y))  # each [P]
    n_varying = int(((xx > 0) & (yy > 0)).sum())
    why_null = _why_null(a, b, xx, yy)
    r = math.nan if why_null else float(xy.sum() / math.sqrt(xx.sum() * yy.sum()))
    why_no_interval = why_null or _why_no_interval(r, n_varying)
    low = high = math.nan
    if not why_no_interval:
        low, high = _ends(r, xy, xx, yy, confidence, seed)
        if math.isnan(low):
            why_no_interval = "every draw of prompts has the same correlation"
    return WithinPrompts(
        correlation=known(r),
        low=known(low),
        high=known(high),
        n_trajectories=len(x),
        n_prompts=len(xx),
        n_varying=n_varying,
        why_null=why_null,
        why_no_interval=why_no_interval,
    )


def _has_company(prompt: np.ndarray) -> np.ndarray:
    """Whether another trajectory answers the same prompt, bool [N]."""
    _, index, n_answers = np.unique(prompt, return_inverse=True, return_counts=True)
    company: np.ndarray = n_answers[index] > 1
    return company


def _centred(values: np.ndarray, prompt: np.ndarray) -> np.ndarray:
    """Values [N] less the mean of their prompt; 0 where they differ from it by rounding alone."""
    mean = (np.bincount(prompt, values) / np.bincount(prompt))[prompt]
    centred: np.ndarray = values - mean
    centred[np.abs(centred) <= NOTHING * np.abs(mean)] = 0.0
    return centred


def _why_null(a: Column, b: Column, xx: np.ndarray, yy: np.ndarray) -> str | None:
    if not len(xx):
        return f"no prompt has two answers with {a.name} and {b.name}"
    for column, squares in ((a, xx), (b, yy)):
        if not squares.any():
            return f"{column.name} is constant within every prompt"
    return None


def _why_no_interval(r: float, n_varying: int) -> str | None:
    if n_varying < FEWEST:
        return f"both vary within only {counted(n_varying, 'prompt')}; {FEWEST} are needed"
    if 1 - abs(r) < NOTHING:
        return "the two are identical within every prompt"
    return None


def _ends(
    r: float, xy: np.ndarray, xx: np.ndarray, yy: np.ndarray, confidence: float, seed: int
) -> tuple[float, float]:
    """Of the interval of the correlation r, from the sums [P] of each prompt.

    What a prompt adds to atanh r is what is missing without it (the jackknife's pseudo-values,
    about their mean): one that weighs much then counts as much as it does.
    """
    without = (xy.sum() - xy) / np.sqrt((xx.sum() - xx) * (yy.sum() - yy))
    z = np.arctanh(without.clip(NOTHING - 1, 1 - NOTHING))
    each = (len(z) - 1) * (z.mean() - z)
    found = interval(np.arctanh([r]), each[:, None], confidence, seed)
    return float(np.tanh(found.low[0])), float(np.tanh(found.high[0]))
