"""Prompts of an evaluation set: exact, normalized and near copies are found, others are not."""

import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsr_ray.choose.overlap import EvalSet, grams_of, normalized, prompt_text, read_eval_set
from rsr_ray.config.choose import ChooseConfig
from rsr_ray.errors import UserError

from .conftest import few

VOCABULARY = (
    "the a of in and to is that for each find number sum triangle angle train leaves station "
    "hours speed apples price total how many what distance circle area integer prime digits "
    "remainder divided by when between two three seven nine boxes red blue balls probability "
    "draw without replacement student class average score points line passes through origin "
    "slope parabola root equation system solve value function minimum maximum garden fence "
    "meters rope cut pieces equal length water tank fills pump minutes workers days together"
)
WORDS = VOCABULARY.split()


def sentence(rng: random.Random, n: int) -> str:
    """Words of one small vocabulary, so that texts have much in common by chance."""
    words = [
        rng.choice(WORDS) if rng.random() < 0.85 else str(rng.randint(2, 99)) for _ in range(n)
    ]
    return " ".join(words).capitalize() + "?"


def edited(text: str, rng: random.Random, share: float) -> str:
    """A share of the words replaced, left out, doubled or changed places with the next."""
    words = text.split()
    for at in rng.sample(range(len(words)), int(share * len(words))):
        how = rng.randrange(4)
        if how == 0:
            words[at] = rng.choice(WORDS)
        elif how == 1:
            words[at] = ""
        elif how == 2:
            words[at] += " " + words[at]
        else:
            other = min(at + 1, len(words) - 1)
            words[at], words[other] = words[other], words[at]
    return " ".join(word for word in words if word)


@pytest.mark.parametrize("seed", range(few(5, 2)))
def test_planted_copies_are_found_and_nothing_else(seed):
    rng = random.Random(seed)
    held_out = [sentence(rng, rng.randint(20, 80)) for _ in range(300)]
    found = EvalSet(held_out, ChooseConfig(store="s", student="m", out="o").eval_overlap)
    copies = [edited(text, rng, rng.uniform(0.01, 0.15)) for text in rng.sample(held_out, 50)]
    others = [sentence(rng, rng.randint(20, 80)) for _ in range(1000)]
    assert all(found.why_dropped(text) for text in copies)
    assert not any(found.why_dropped(text) for text in others)


def test_exact_and_normalized_are_told_apart():
    found = EvalSet(["What is 2+2?", "Naïve ﬁle  names"], 0.9)
    assert found.why_dropped("What is 2+2?") == "eval_exact"
    assert found.why_dropped(" What is 2+2?\n") == "eval_exact"
    assert found.why_dropped("what is 2 + 2") == "eval_normalized"
    assert found.why_dropped("NAÏVE file names!") == "eval_normalized"
    assert found.why_dropped("What is 3+2?") is None
    assert found.why_dropped("") is None
    assert found.why_dropped("?!") is None


def slow_overlap(a: str, b: str) -> float:
    """Jaccard of the sets of 5-grams, as it is written."""
    sets = [{text[i : i + 5] for i in range(max(1, len(text) - 4))} if text else set()
            for text in (a, b)]  # fmt: skip
    both = len(sets[0] & sets[1])
    return both / len(sets[0] | sets[1]) if both else 0.0


@given(
    st.lists(st.text("ab é😀", max_size=40), min_size=1, max_size=6), st.text("ab é😀", max_size=40)
)
def test_overlap_is_the_jaccard_of_5_grams(prompts, text):
    words = normalized(text)
    expected = max(slow_overlap(words, normalized(prompt)) for prompt in prompts)
    assert EvalSet(prompts, 0.5).overlap(words) == pytest.approx(expected)


def test_grams_are_distinct_and_the_same_everywhere():
    assert len(grams_of("aaaaaaaaaa")) == 1
    assert len(grams_of("abcdefgh")) == 4
    assert np.array_equal(grams_of("abcde"), np.unique(grams_of("abcde")))


def test_the_prompt_is_what_the_user_says_first():
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "context", "train": False},
        {"role": "user", "content": "two?"},
        {"role": "assistant", "content": "Three."},
        {"role": "user", "content": "Four?"},
    ]
    assert prompt_text(turns) == "One\ntwo?"


ROWS = {
    "messages": {"messages": [{"role": "user", "content": "Why?"}], "id": 1},
    "conversations": {"conversations": [{"from": "human", "value": "Why?"}]},
    "prompt": {"prompt": "Why?", "answer": "4"},
    "problem": {"problem": "Why?", "solution": "4", "answer": "4"},
    "question": {"question": "Why?"},
    "turns": {"prompt": [{"role": "user", "content": "Why?"}]},
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_evaluation_sets_of_many_shapes_are_read(tmp_path, row, format):
    path = tmp_path / f"eval.{format}"
    if format == "jsonl":
        path.write_text(json.dumps(row) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)
    assert read_eval_set(str(path), None, 0.5, None).why_dropped("Why?") == "eval_exact"


def test_a_column_can_be_named(tmp_path):
    path = tmp_path / "eval.jsonl"
    path.write_text(json.dumps({"prompt": "no", "meta": {"text": "Why?"}}) + "\n")
    assert read_eval_set(str(path), "meta.text", 0.5, None).why_dropped("Why?")
    with pytest.raises(UserError, match="row 0: no text in its column meta.txt; --eval-column"):
        read_eval_set(str(path), "meta.txt", 0.5, None)


def test_what_is_no_evaluation_set_is_refused(tmp_path):
    path = tmp_path / "eval.jsonl"
    path.write_text(json.dumps({"answer": "4"}) + "\n")
    with pytest.raises(UserError, match="row 0: no prompt; --eval-column .*there: answer"):
        read_eval_set(str(path), None, 0.5, None)
    path.write_text("{\n")
    with pytest.raises(UserError, match="row 0: "):
        read_eval_set(str(path), None, 0.5, None)
    with pytest.raises(UserError):
        read_eval_set(str(tmp_path / "none.jsonl"), None, 0.5, None)
