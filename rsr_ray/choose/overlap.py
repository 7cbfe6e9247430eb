"""overlap: prompts that are in an evaluation set, or nearly.

A prompt is compared as the text of its user turns before the first answer, in three steps:

    eval_exact        the same text, white space at its ends aside
    eval_normalized   the same words: compatibility forms (NFKC), letter case, punctuation and white
                      space aside
    eval_near         of the 5-grams of both, at least a share (--eval-overlap) is in common

5-grams are of characters of the normalized text, and the share is that of Jaccard: those in common
of those in either. An inverted index of hashed 5-grams makes a look-up as long as the postings of
the prompt's own 5-grams.
"""

import re
import unicodedata
from typing import Any

import numpy as np

from rsr_ray.corpus.identity import name_of
from rsr_ray.corpus.pairs import QUESTIONS
from rsr_ray.corpus.row_faults import Row, Unreadable
from rsr_ray.corpus.rows import iter_rows
from rsr_ray.corpus.shapes import shape_of, value_at
from rsr_ray.corpus.shards import list_corpus
from rsr_ray.corpus.turns import Turn, is_scored, turns_of
from rsr_ray.errors import BadRow, UserError

GRAM = 5  # characters
PUNCTUATION = re.compile(r"[\W_]+")
ASKED = (*QUESTIONS, "question", "problem")  # columns with the prompt, as text


class EvalSet:
    """The prompts of an evaluation set, to look others up in. It travels to the tasks."""

    def __init__(self, prompts: list[str], least_overlap: float):
        self.least_overlap = least_overlap
        self._texts = {text.strip() for text in prompts}
        self._normalized = sorted({words for text in prompts if (words := normalized(text))})
        self._known = {*self._normalized}
        grams = [grams_of(text) for text in self._normalized]
        self._n_grams = np.array([len(some) for some in grams], np.int64)
        every = np.concatenate([*grams, np.zeros(0, np.uint64)])
        prompt = np.repeat(np.arange(len(grams), dtype=np.int32), self._n_grams)
        order = np.argsort(every, kind="stable")
        self._grams, self._prompt = every[order], prompt[order]

    def __len__(self) -> int:
        return len(self._texts)

    def why_dropped(self, text: str) -> str | None:
        """How a prompt is in the set, as a reason of DROPPED; None if it is not."""
        if text.strip() in self._texts:
            return "eval_exact"
        words = normalized(text)
        if words in self._known:
            return "eval_normalized"
        return "eval_near" if self.overlap(words) >= self.least_overlap else None

    def overlap(self, words: str) -> float:
        """The largest share of 5-grams that a normalized text has in common with a prompt."""
        grams = grams_of(words)
        if not len(grams) or not len(self._n_grams):
            return 0.0
        first = np.searchsorted(self._grams, grams)
        last = np.searchsorted(self._grams, grams, side="right")
        found = np.concatenate([self._prompt[a:b] for a, b in zip(first, last, strict=True)])
        common = np.bincount(found, minlength=len(self._n_grams))
        return float((common / (len(grams) + self._n_grams - common)).max())


def normalized(text: str) -> str:
    """The words of a text, in lower case, with one space between them."""
    return PUNCTUATION.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def grams_of(text: str) -> np.ndarray:
    """The distinct 5-grams of characters of a text, hashed; uint64 [G], sorted.

    A text of fewer characters is one gram.
    """
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    if not len(points):
        return np.zeros(0, np.uint64)
    n = min(GRAM, len(points))
    grams = np.zeros(len(points) - n + 1, np.uint64)
    for at in range(n):  # an odd factor, modulo 2^64: a polynomial hash
        grams = grams * np.uint64(0x9E3779B97F4A7C15) + points[at : len(points) - n + 1 + at]
    return np.unique(grams)


def prompt_text(turns: list[Turn]) -> str:
    """What the user says before the first answer."""
    answer = next((n for n, turn in enumerate(turns) if is_scored(turn)), len(turns))
    return "\n".join(turn["content"] for turn in turns[:answer] if turn["role"] == "user")


def read_eval_set(
    uri: str, column: str | None, least_overlap: float, endpoint: str | None
) -> EvalSet:
    """The prompts of a file's rows. Raises UserError where a row has none."""
    prompts = []
    for obj in list_corpus((uri,), endpoint):
        for n, row in enumerate(iter_rows(obj, endpoint, {}, only=None)):
            where = f"--eval-set {obj.uri} row {n}"
            if isinstance(row, Unreadable):
                raise UserError(f"{where}: {row.detail}")
            text = _asked(row, column)
            if not text or not text.strip():
                what = f"no text in its column {column}" if column else "no prompt"
                raise UserError(
                    f"{where}: {what}; --eval-column names the column of the prompt; there: "
                    f"{', '.join(map(str, row))[:200]}"
                )
            prompts.append(text)
    if not prompts:
        raise UserError(f"--eval-set {uri}: has no rows")
    return EvalSet(prompts, least_overlap)


def _asked(row: Row, column: str | None) -> str | None:
    """The prompt of a row of an evaluation set."""
    if column is not None:
        return _text(value_at(row, column))
    shape = shape_of({name for name, value in row.items() if value is not None})
    if shape in ("messages", "conversations"):
        return _text(row[shape])
    return next((text for name in ASKED if (text := _text(row.get(name)))), None)


def _text(value: Any) -> str | None:
    """Text as it is; of turns, what the user says before the first answer."""
    try:
        return prompt_text(turns_of(value)) if isinstance(value, list) else name_of(value, "prompt")
    except BadRow:
        return None
