"""degenerate: what a trajectory's text and tokens show of loops, cut-offs and idle calls.

Nothing here asks the student. All of it takes n log n time; `tests/test_degenerate.py` has a slow
definition of each number. Legend: n tokens.
"""

import functools
import itertools
import json
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from rsr_ray.corpus.turns import Turn, is_scored
from rsr_ray.encode.found import Found
from rsr_ray.encode.tokens import Encoded
from rsr_ray.guard import NGRAM

# Where a call lies in text, under templates and agents that spell it out.
SPELT_CALL = re.compile(
    r"<tool_call>(.*?)</tool_call>|(<function=.*?)</function>|```(?:bash|sh|shell)\n(.*?)```",
    re.DOTALL,
)
# Arguments that hold the command of a call, and commands that do nothing.
COMMANDS = ("command", "cmd", "code", "script", "keystrokes")
IDLE = re.compile(r"\s*(?::|true|pwd|sleep\s+[\d.]+[smh]?|echo\b[^|>&;]*)?\s*;?\s*")
# Where no text ends by itself.
MIDWAY = (",", "(", "[", "{", "\\", "=", "+")
# Scripts of a language, as the first word of a letter's name in Unicode.
SCRIPTS = {
    **{name: name for name in (
        "ARABIC", "ARMENIAN", "BENGALI", "CYRILLIC", "DEVANAGARI", "ETHIOPIC", "GEORGIAN",
        "GUJARATI", "GURMUKHI", "HANGUL", "HEBREW", "KANNADA", "KHMER", "LAO", "MALAYALAM",
        "MONGOLIAN", "MYANMAR", "ORIYA", "SINHALA", "TAMIL", "TELUGU", "THAI", "TIBETAN",
    )},
    **dict.fromkeys(("CJK", "HIRAGANA", "KATAKANA"), "CJK"),
}  # fmt: skip


class Degeneration(NamedTuple):
    """The guard's columns of a row (rsr_ray.guard)."""

    repeated_ngrams: float | None
    longest_repeat: int
    compression_ratio: float
    repeated_calls: float | None
    cut_off: bool
    other_script: float | None


def measure(
    turns: list[Turn], found: Found, encoded: Encoded, complete: bool | None
) -> Degeneration:
    """Of a conversation, its rendering, its tokens, and what the corpus says of its end."""
    scored = np.concatenate([encoded.input_ids[a:b] for a, b in encoded.spans.reshape(-1, 2)])
    said, rest = _parts(found)
    share, longest = repeats(scored)
    return Degeneration(
        repeated_ngrams=share,
        longest_repeat=longest,
        compression_ratio=compression_ratio(said),
        repeated_calls=repeated_calls(turns),
        cut_off=complete is False or breaks_off(turns, is_sure=complete is True),
        other_script=other_script(said, rest),
    )


def _parts(found: Found) -> tuple[str, str]:
    """The assistant's text, and all other text of the rendering."""
    edges = [0, *(edge for span in found.spans for edge in span), len(found.text)]
    pieces = [found.text[a:b] for a, b in itertools.pairwise(edges)]
    return "".join(pieces[1::2]), "".join(pieces[::2])


# --- repeats --------------------------------------------------------------------------------------


def repeats(tokens: np.ndarray) -> tuple[float | None, int]:
    """Of tokens, int [n]: the share of their NGRAM-grams that occurred before, None for fewer
    tokens; and the length of the longest run of them that occurs twice.

    Runs of twice the length are numbered from those of half of it, as in prefix doubling (Karp,
    Miller & Rosenberg, 1972), so equal numbers are equal runs, without a hash.
    """
    doubled = [_numbered(tokens)]  # [k]: of the runs of 2^k tokens
    while _repeat(doubled[-1]) and 1 << len(doubled) <= len(tokens):
        half = 1 << len(doubled) - 1
        doubled.append(_numbered_pairs(doubled[-1][:-half], doubled[-1][half:]))
    return _share_repeated(doubled, len(tokens)), _longest_repeat(doubled)


def _share_repeated(doubled: list[np.ndarray], n: int) -> float | None:
    if n < NGRAM:
        return None
    k = NGRAM.bit_length() - 1
    if k >= len(doubled):  # no shorter run occurs twice
        return 0.0
    ngrams = doubled[k]
    return 1 - (int(ngrams.max()) + 1) / len(ngrams)


def _longest_repeat(doubled: list[np.ndarray]) -> int:
    """The largest sum of powers of two of which a run occurs twice, from the largest power on."""
    length, runs = 0, None
    for k in reversed(range(len(doubled))):
        step = doubled[k][length:]
        if not len(step):
            continue
        longer = step if runs is None else _numbered_pairs(runs[: len(step)], step)
        if _repeat(longer):
            length, runs = length + (1 << k), longer
    return length


def _numbered(values: np.ndarray) -> np.ndarray:
    """Distinct values numbered in their order, int64 [n]."""
    return np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _numbered_pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Distinct pairs of numbers under 2^bits numbered in their order, int64 [n].

    Each pair is sorted with its place in one integer, several times as fast as an argsort.
    """
    n = len(first)
    bits = int(max(first.max(), second.max(), n)).bit_length()
    if 3 * bits > 63:
        return _numbered(first << bits | second)
    keys = (first << bits | second) << bits | np.arange(n)
    keys.sort()
    place = keys & (1 << bits) - 1
    keys >>= bits
    numbers = np.empty(n, np.int64)
    numbers[place] = np.concatenate([[0], np.cumsum(keys[1:] != keys[:-1])])
    return numbers


def _repeat(numbers: np.ndarray) -> bool:
    """Whether two of these numbers, dense from 0, are equal."""
    return int(numbers.max()) + 1 < len(numbers)


def compression_ratio(text: str) -> float:
    """Bytes of a text over those that zlib makes of them."""
    data = text.encode()
    return len(data) / len(zlib.compress(data, 6))


# --- tool calls -----------------------------------------------------------------------------------


def repeated_calls(turns: list[Turn]) -> float | None:
    """Share of the assistant's calls that do nothing, or that repeat an earlier call and get the
    same answer; None where there is no call.
    """
    calls = list(_calls(turns))
    if not calls:
        return None
    seen: set[tuple[str, str]] = set()
    n_idle = 0
    for call, command, answer in calls:
        n_idle += (call, answer) in seen or (command is not None and bool(IDLE.fullmatch(command)))
        seen.add((call, answer))
    return n_idle / len(calls)


def _calls(turns: list[Turn]) -> Iterator[tuple[str, str | None, str]]:
    """Each call of the assistant's scored turns, its command if it has one, and what answers it:
    of as many tools' turns as calls the one in its place, or else all turns up to the next answer.
    """
    for i, turn in enumerate(turns):
        if not is_scored(turn):
            continue
        calls = [*_structured(turn), *_spelt(turn["content"])]
        after = []
        for later in turns[i + 1 :]:
            if later["role"] == "assistant":
                break
            after.append(later["content"])
        own = after if len(after) == len(calls) else ["\0".join(after)] * len(calls)
        for (call, command), answer in zip(calls, own, strict=True):
            yield call, command, answer


def _structured(turn: Turn) -> Iterator[tuple[str, str | None]]:
    for call in turn.get("tool_calls", ()):
        function = call["function"]
        given = function["arguments"]
        named = given if isinstance(given, dict) else {}
        commands = [named[name] for name in COMMANDS if isinstance(named.get(name), str)]
        text = json.dumps([function["name"], given], sort_keys=True)
        yield text, commands[0] if commands else None


def _spelt(content: str) -> Iterator[tuple[str, str | None]]:
    """Calls that the assistant's text spells out."""
    for match in SPELT_CALL.finditer(content):
        text = next(group for group in match.groups() if group is not None).strip()
        yield text, text if match.group(3) is not None else None


# --- ends and scripts -----------------------------------------------------------------------------


def breaks_off(turns: list[Turn], *, is_sure: bool = False) -> bool:
    """Whether the last of the assistant's scored texts leaves its reasoning or a call open or,
    unless the corpus is sure that it is complete, ends where no sentence or formula does.
    """
    last = next(turn for turn in reversed(turns) if is_scored(turn))
    text = last["content"].strip()
    if text.startswith("<think>") and "</think>" not in text and not last.get("tool_calls"):
        return True
    if text.count("<tool_call>") > text.count("</tool_call>"):
        return True
    return not is_sure and not last.get("tool_calls") and text.endswith(MIDWAY)


def other_script(text: str, rest: str) -> float | None:
    """Share of the text's letters that are of a script which is neither Latin or Greek, nor in the
    rest of the conversation, nor the text's most frequent; None where there is no letter.
    """
    scripts = _scripts(text)
    n_letters = scripts.total()
    if not n_letters:
        return None
    usual = {script for script, n in scripts.items() if n == max(scripts.values())}
    usual |= {"", *_scripts(rest)}
    return sum(n for script, n in scripts.items() if script not in usual) / n_letters


def _scripts(text: str) -> Counter[str]:
    """Letters of a text by their script; "" is Latin, Greek, and signs of no language."""
    letters, counts = np.unique(np.frombuffer(text.encode("utf-32-le"), "<u4"), return_counts=True)
    found: Counter[str] = Counter()
    for letter, n in zip(map(chr, letters.tolist()), counts.tolist(), strict=True):
        if letter.isalpha():
            found[_script(letter)] += n
    return found


@functools.lru_cache(maxsize=1 << 16)
def _script(letter: str) -> str:
    return SCRIPTS.get(unicodedata.name(letter, "").split(" ")[0].split("-")[0], "")
