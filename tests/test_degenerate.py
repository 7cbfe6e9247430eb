"""The guard's columns against slow definitions, and what they say of real trajectories."""

import gzip
import json
import random
import time
import unicodedata
import zlib

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsr_ray.corpus.canonical import canonical
from rsr_ray.corpus.reading import Reading
from rsr_ray.encode.degenerate import (
    _numbered_pairs,
    breaks_off,
    compression_ratio,
    measure,
    other_script,
    repeated_calls,
    repeats,
)
from rsr_ray.encode.encode import encode_row
from rsr_ray.encode.found import Found
from rsr_ray.encode.how import How
from rsr_ray.encode.segments import ANSWER
from rsr_ray.encode.tokens import Encoded
from rsr_ray.files.objects import InputObject
from rsr_ray.guard import GUARD, GUARD_COLUMNS, JUDGED_BY, NGRAM, cut_off, degenerate
from rsr_ray.schema import SCORES
from rsr_ray.student.tokenizer import load_tokenizer
from rsr_ray.unit_rows import ENCODED_ROWS

from .conftest import SHARED, WHOLE, few, needs_shared

# --- slow definitions -----------------------------------------------------------------------------


def share_repeated(tokens: list[int]) -> float | None:
    ngrams = [tuple(tokens[i : i + NGRAM]) for i in range(len(tokens) - NGRAM + 1)]
    return (
        sum(ngram in ngrams[:i] for i, ngram in enumerate(ngrams)) / len(ngrams) if ngrams else None
    )


def longest(tokens: list[int]) -> int:
    best = 0
    for i in range(len(tokens)):
        for j in range(i + 1, len(tokens)):
            n = 0
            while j + n < len(tokens) and tokens[i + n] == tokens[j + n]:
                n += 1
            best = max(best, n)
    return best


def script_of(letter: str) -> str:
    name = unicodedata.name(letter, "")
    words = ("CJK", "HIRAGANA", "KATAKANA")
    return "CJK" if name.startswith(words) else name.split(" ")[0]


def other_script_slowly(text: str, rest: str) -> float | None:
    letters = [c for c in text if c.isalpha()]
    if not letters:
        return None
    mine = [script_of(c) if script_of(c) in KNOWN else "" for c in letters]
    most = max(mine.count(script) for script in mine)
    theirs = {script_of(c) for c in rest if c.isalpha()}
    other = [s for s in mine if s and s not in theirs and mine.count(s) < most]
    return len(other) / len(letters)


KNOWN = {"ARABIC", "CYRILLIC", "CJK", "HANGUL", "DEVANAGARI", "HEBREW", "THAI"}
ALPHABET = "ab αβ жд 中の 한 שא ไ é𝑥1.\n-👍"


def looping(draw, values) -> list[int]:
    """Tokens with loops in them."""
    parts = draw(st.lists(st.tuples(st.lists(values, max_size=9), st.integers(1, 12)), max_size=6))
    return [token for part, times in parts for token in part * times]


@given(st.data())
@settings(max_examples=few(2000, 60))
def test_repeats_are_those_of_the_slow_definition(data):
    tokens = data.draw(st.composite(looping)(st.integers(0, data.draw(st.sampled_from([1, 2, 9])))))
    if tokens:
        assert repeats(np.array(tokens, np.int32)) == (
            share_repeated(tokens)
            if len(tokens) < NGRAM
            else pytest.approx(share_repeated(tokens)),
            longest(tokens),
        )


@pytest.mark.parametrize("n", [1, 2, 3, 7, 16, 31, 32, 33, 64, 65])
def test_one_token_again_and_again(n):
    share, run = repeats(np.zeros(n, np.int32))
    assert run == n - 1
    assert share == (None if n < NGRAM else 1 - 1 / (n - NGRAM + 1))


@pytest.mark.parametrize("top", [2**21 - 1, 2**21, 2**31 - 1])
def test_pairs_that_do_not_fit_in_one_integer_are_numbered_all_the_same(top):
    rng = np.random.default_rng(0)
    first, second = rng.integers(top - 3, top + 1, (2, 200))
    pairs = [*zip(first.tolist(), second.tolist(), strict=True)]
    expected = [sorted({*pairs}).index(pair) for pair in pairs]
    assert _numbered_pairs(first, second).tolist() == expected


@pytest.mark.slow
def test_more_tokens_than_fit_in_one_integer_are_counted_all_the_same():
    """Two numbers and a place take 63 bits up to 2**21 tokens."""
    rng = np.random.default_rng(0)
    tokens = np.concatenate([rng.integers(0, 2**31 - 1, 2**21 + 5), np.arange(40), np.arange(40)])
    share, run = repeats(tokens)
    assert run == 40
    assert share == pytest.approx((40 - NGRAM + 1) / (len(tokens) - NGRAM + 1))


@given(st.text(ALPHABET), st.text(ALPHABET, max_size=5))
@settings(max_examples=few(5000, 100))
def test_letters_of_other_scripts_are_those_of_the_slow_definition(text, rest):
    assert other_script(text, rest) == other_script_slowly(text, rest)


@pytest.mark.parametrize(
    ("text", "rest", "share"),
    [
        ("let x = 4, 然后 y", "What is x?", 2 / 7),
        ("let x = 4, 然后 y", "What is 然?", 0.0),
        ("α + β = π, so the angle ends", "?", 0.0),
        ("所以答案是 x = 4", "What is x?", 0.0),
        ("所以答案是 x = 4, так", "What is x?", 3 / 9),
        ("12 + 30 = 42.", "?", None),
    ],
)
def test_which_letters_are_of_another_script(text, rest, share):
    assert other_script(text, rest) == (share if share is None else pytest.approx(share))


@given(st.text(ALPHABET, min_size=1), st.integers(1, 400), st.integers(1, 9))
@settings(max_examples=few(1000, 40))
def test_compression_is_of_the_bytes_however_they_are_fed(text, times, size):
    text *= times
    packer = zlib.compressobj(6)
    data = text.encode()
    packed = b"".join(packer.compress(data[i : i + size]) for i in range(0, len(data), size))
    packed += packer.flush()
    assert zlib.decompress(packed).decode() == text
    assert compression_ratio(text) == len(data) / len(packed)


# --- calls ----------------------------------------------------------------------------------------

NAMES, ANSWERS = ["bash", "edit"], ["ok", "no"]
COMMANDS = ["ls", "pwd", "sleep 5", "echo done", "echo a > b", "true", "", "make && echo ok", ": "]
DOES_NOTHING = {"pwd", "sleep 5", "echo done", "true", "", ": "}
CALL = st.tuples(st.sampled_from(NAMES), st.sampled_from(COMMANDS))


def call_of(name, command):
    return {"type": "function", "function": {"name": name, "arguments": {"command": command}}}


@given(st.lists(st.tuples(st.lists(CALL, max_size=3), st.lists(st.sampled_from(ANSWERS)))))
@settings(max_examples=few(3000, 80))
def test_repeated_calls_are_those_of_the_slow_definition(steps):
    turns, told = [{"role": "user", "content": "go"}], []
    for calls, answers in steps:
        turns.append(
            {"role": "assistant", "content": "", "tool_calls": [call_of(*call) for call in calls]}
        )
        turns += [{"role": "tool", "content": answer} for answer in answers]
        own = answers if len(answers) == len(calls) else ["\0".join(answers)] * len(calls)
        told += zip(calls, own, strict=True)
    idle = [
        call[1] in DOES_NOTHING or (call, answer) in told[:i]
        for i, (call, answer) in enumerate(told)
    ]
    assert repeated_calls(turns) == (sum(idle) / len(idle) if idle else None)


def test_calls_that_text_spells_out_count():
    def step(call, answer):
        return [
            {"role": "assistant", "content": f"I look.\n{call}"},
            {"role": "user", "content": answer},
        ]

    hermes = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    coder = "<function=f>\n<parameter=a>1</parameter>\n</function>"
    for call in (hermes, coder, "```bash\nls -l\n```"):
        assert repeated_calls([*step(call, "a"), *step(call, "a")]) == 0.5
        assert repeated_calls([*step(call, "a"), *step(call, "b")]) == 0.0
    assert repeated_calls(step("```bash\necho I am done\n```", "")) == 1.0
    assert repeated_calls(step("```python\nprint()\n```", "")) is None


def test_the_same_command_after_a_change_is_no_repeat():
    test, edit = call_of("bash", "pytest"), call_of("edit", "x = 1")
    turns = []
    for call, answer in ((test, "1 failed"), (edit, "ok"), (test, "1 passed"), (test, "1 passed")):
        turns.append({"role": "assistant", "content": "", "tool_calls": [call]})
        turns.append({"role": "tool", "content": answer})
    assert repeated_calls(turns) == 0.25
    for turn in turns:
        turn["train"] = False
    turns.append({"role": "assistant", "content": "Done."})
    assert repeated_calls(turns) is None  # calls that are context are not the answer's


# --- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "is_off", "is_off_though_complete"),
    [
        ("It is 4.", False, False),
        ("<think>\nHm.\n</think>\n\nIt is 4.", False, False),
        ("<think>\nHm. It is", True, True),
        ("Hm.\n</think>\nIt is 4", False, False),
        ('<tool_call>\n{"name": "f"', True, True),
        ("The answer is: $\\frac{", True, False),
        ("Thus,", True, False),
        ("```python\nprint(4)\n```", False, False),
        ('"reasoning": "...",\n"answer": "4"\n}\n```', False, False),
        ("\\boxed{4}", False, False),
    ],
)
def test_what_breaks_off(text, is_off, is_off_though_complete):
    turns = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": text}]
    assert breaks_off(turns) is is_off
    assert breaks_off(turns, is_sure=True) is is_off_though_complete


def test_an_answer_that_ends_in_a_call_is_not_broken_off():
    turn = {
        "role": "assistant",
        "content": "<think>\nI look,",
        "tool_calls": [call_of("bash", "ls")],
    }
    assert breaks_off([turn]) is False


# --- rows -----------------------------------------------------------------------------------------


def encoded_row(tokenizer, **row):
    asked = {} if "messages" in row else {"prompt": "What is 2+2?"}
    row = {"id": "1", "teacher": "t"} | asked | row
    found = canonical(row, InputObject(uri="/c/t/p.jsonl", version="v", size=1), 0, Reading())
    return encode_row(found, tokenizer, How(max_length=2**20))


def test_a_row_has_the_guards_columns_and_a_reject_has_none(tokenizer):
    assert [field.name for field in GUARD] == list(GUARD_COLUMNS)
    for field in GUARD:
        assert SCORES.field(field.name) == field == ENCODED_ROWS.field(field.name)
    row = encoded_row(tokenizer, response="It is 4.")
    assert (row["cut_off"], row["repeated_calls"], row["other_script"]) == (False, None, 0.0)
    assert row["compression_ratio"] == 8 / len(zlib.compress(b"It is 4."))
    assert encoded_row(tokenizer, response="It is 4.", complete=False)["cut_off"] is True
    loop = encoded_row(tokenizer, response="It is 4. " * 50)
    assert loop["repeated_ngrams"] > 0.9
    assert loop["longest_repeat"] > len(loop["input_ids"]) / 2
    rejected = encoded_row(tokenizer, response="")
    assert rejected["reject_reason"] == "empty_response"
    assert [rejected[name] for name in GUARD_COLUMNS] == [None] * len(GUARD_COLUMNS)


def columns_of(rows):
    return {
        name: np.array([np.nan if row.get(name) is None else row[name] for row in rows], float)
        for name in JUDGED_BY
    }


KEPT = {"longest_repeat": 3, "compression_ratio": 2.0, "cut_off": False, "n_tokens": 9}


@pytest.mark.parametrize(
    ("row", "flags"),
    [
        (KEPT, (0, 0, 0)),
        ({"n_tokens": 9}, (np.nan, np.nan, np.nan)),
        ({"n_tokens": 9, "complete": True}, (0, np.nan, np.nan)),
        ({"n_tokens": 9, "complete": False}, (1, 1, np.nan)),
        (KEPT | {"cut_off": True}, (1, 1, 0)),
        (KEPT | {"repeated_ngrams": 0.99}, (0, 1, 1)),
        (KEPT | {"compression_ratio": 30.0}, (0, 1, 1)),
        (KEPT | {"repeated_calls": 0.9}, (0, 1, 1)),
        (KEPT | {"repeated_calls": 0.1, "repeated_ngrams": 0.05, "other_script": 0.0}, (0, 0, 0)),
        (KEPT | {"other_script": 0.5}, (0, 1, 1)),
    ],
)
def test_which_rows_are_degenerate(row, flags):
    columns = columns_of([row])
    found = cut_off(columns), degenerate(columns), degenerate(columns, cut_offs=False)
    np.testing.assert_array_equal(np.concatenate(found), flags)


def words(rng: random.Random, n: int) -> str:
    """Text of words that follow Zipf's law."""
    some = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(1, 9))) for _ in range(3000)]
    weights = [1 / (n + 1) for n in range(len(some))]
    return " ".join(rng.choices(some, weights, k=n))


@pytest.mark.parametrize("kind", ["text", "loop", "one token"])
def test_a_row_of_131072_tokens_costs_little(kind):
    """Printed, as a busy machine would fail any limit; `pytest -s` shows it."""
    rng = random.Random(0)
    n = 131_072
    text = words(rng, n)
    if kind == "loop":
        text = text[:500] * (len(text) // 500)
    numbers = np.unique(text.split(), return_inverse=True)[1]
    tokens = {
        "text": numbers[:n],
        "loop": np.tile(numbers[:100], n // 100 + 1)[:n],
        "one token": np.zeros(n, np.int64),
    }[kind].astype(np.int32)
    prompt = "What is it? "
    found = Found(prompt + text, [(len(prompt), len(prompt) + len(text))], [1], [ANSWER])
    encoded = Encoded(
        input_ids=tokens,
        spans=np.array([0, len(tokens)], np.int32),
        truncated=False,
        span_turns=np.array([1], np.int32),
        sentences=np.array([len(tokens)], np.int32),
    )
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
    took = []
    for _ in range(few(5, 1)):
        begun = time.process_time()
        measured = measure(turns, found, encoded, None)
        took.append(time.process_time() - begun)
    size = f"{len(tokens):,} tokens, {len(text):,} characters"
    print(f"{kind}: {size}: {1e3 * min(took):.0f} ms of CPU")
    assert (measured.longest_repeat > n / 2) == (kind != "text")


# --- the real corpus ------------------------------------------------------------------------------


def real_rows(source):
    for path in sorted((SHARED / "corpus" / source).glob("*/*")):
        if path.suffix == ".parquet":
            rows = pq.read_table(path).to_pylist()
        else:
            data = path.read_bytes()
            text = gzip.decompress(data) if path.suffix == ".gz" else data
            rows = [json.loads(line) for line in text.splitlines()]
        yield from (row | {"teacher": path.parent.name.removeprefix("teacher=")} for row in rows)


@pytest.fixture(scope="session")
def real_tokenizer():
    return load_tokenizer(str(SHARED / "students" / "tiny-qwen3"))


@pytest.mark.simulation
@needs_shared
@pytest.mark.parametrize(
    ("source", "found_by_text", "most_false"), [("puzzles", 1.0, 0.02), ("math", 0.65, 0.02)]
)
def test_the_real_corpus(real_tokenizer, source, found_by_text, most_false):
    """Rows that the corpus calls cut off or looping, with its word for it and by their text alone,
    and flags of its other rows. The limits were chosen after looking at rows of both sources.
    """
    # every day a third of those that are neither
    rows = [
        row
        for i, row in enumerate(real_rows(source))
        if WHOLE or row["complete"] is False or i % 3 == 0
    ]
    flags = {}
    for word in ("with its word", "by text alone"):
        hidden = {} if word == "with its word" else {"complete": None}
        found = [encoded_row(real_tokenizer, **row | hidden) for row in rows]
        assert not [row["reject_detail"] for row in found if row["reject_reason"]]
        for row in found:
            row["n_tokens"] = int(np.diff(row["spans"].reshape(-1, 2)).sum())
        columns = columns_of(found)
        flags[word] = degenerate(columns) == 1
        flags[f"{word}, ends aside"] = degenerate(columns, cut_offs=False) == 1
    bad = np.array([row["complete"] is False for row in rows])
    for word, flagged in flags.items():
        print(
            f"{source}, {word}: {(flagged & bad).sum()} of {bad.sum()} incomplete rows, "
            f"{(flagged & ~bad).sum()} of {(~bad).sum()} others"
        )
    assert flags["with its word"][bad].all()
    assert flags["with its word"][~bad].mean() < most_false
    assert flags["by text alone"][bad].mean() >= found_by_text
    assert flags["by text alone"][~bad].mean() < most_false
