"""guard: which trajectories are degenerate: cut off, looping, idle, or in another script.

RSR rewards a loop, because what repeats itself does not surprise. The columns are measured when a
row is encoded (encode/degenerate.py) and kept with its scores; the rule is applied wherever they
are read, so that it can change without a row being scored again. Legend: N trajectories.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

NGRAM = 16  # tokens


def _column(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    return pa.field(name, kind, metadata={"description": meaning})


GUARD = (
    _column(
        "repeated_ngrams",
        pa.float64(),
        f"share of its {NGRAM}-grams of scored tokens that occurred before; null for fewer tokens",
    ),
    _column(
        "longest_repeat",
        pa.int64(),
        "scored tokens; the longest run of them that occurs twice, overlaps allowed",
    ),
    _column(
        "compression_ratio",
        pa.float64(),
        "bytes of the assistant's text in UTF-8 / bytes that zlib makes of them at level 6",
    ),
    _column(
        "repeated_calls",
        pa.float64(),
        "share of its tool calls that do nothing, or repeat a call and get the same answer; null "
        "where there is no call",
    ),
    _column(
        "cut_off",
        pa.bool_(),
        "the corpus says that the answer is not complete, or its text breaks off",
    ),
    _column(
        "other_script",
        pa.float64(),
        "share of the text's letters that are of a script which is neither Latin or Greek, nor the "
        "prompt's, nor the text's most frequent; null where there is no letter",
    ),
)
GUARD_COLUMNS = tuple(field.name for field in GUARD)
# What the rule reads of a row of scores.
JUDGED_BY = (*GUARD_COLUMNS, "complete", "n_tokens")

# At these values and above, a trajectory is degenerate.
LIMITS = {
    "repeated_ngrams": 0.5,
    "compression_ratio": 8.0,
    "repeated_calls": 0.5,
    "other_script": 0.1,
}

UNCHECKED = (
    "no trajectory was checked for loops, because an earlier version of rsr_ray scored them; "
    "rsr-ray score --new-generation scores and checks them"
)


def as_numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A column of numbers [N], or of truth values as 1 and 0; NaN for null."""
    is_bool = pa.types.is_boolean(column.type)
    return (column.cast(pa.float64()) if is_bool else column).to_numpy()


def cut_off(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Whether each trajectory is cut off, float64 [N]: 1, 0, or NaN where nothing is known.

    `columns` holds JUDGED_BY as numbers, each [N]; NaN for null. Of rows that were stored without
    the guard's columns, `complete` says it.
    """
    said = columns["cut_off"]
    return np.where(np.isnan(said), 1 - columns["complete"], said)


def degenerate(columns: Mapping[str, np.ndarray], *, cut_offs: bool = True) -> np.ndarray:
    """Whether each trajectory is degenerate, float64 [N]: 1, 0, or NaN where it is not known.

    It is where one of the columns reaches its limit or, with `cut_offs`, where it is cut off.
    `columns` as those of `cut_off`.
    """
    reaches = np.logical_or.reduce([columns[name] >= most for name, most in LIMITS.items()])
    cut = cut_off(columns) == 1 if cut_offs else np.zeros(len(reaches), bool)
    is_known = ~np.isnan(columns["longest_repeat"])
    return np.where(reaches | cut, 1.0, np.where(is_known, 0.0, np.nan))
