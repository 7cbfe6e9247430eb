"""Steps of local naturalness: where they are cut, what each is scored with, their sum."""

import numpy as np
import pytest

from rsr_ray.encode.encode import encode
from rsr_ray.encode.how import How
from rsr_ray.engine.scoring import Work, score_tokens
from rsr_ray.engine.steps import StepsOfRow, score_steps, step_contexts

TEXT = (
    "<think>\nFirst, 3.14 is pi. Is it?  Yes (e.g. \u03c0)!\nNow add.\n\n\nThen "
    "stop\n</think>\n\nThe answer is 4."
)
TURNS = [{"role": "user", "content": "How many? Tell me."}, {"role": "assistant", "content": TEXT}]


def steps_of(tokenizer, kind: str, turns=TURNS) -> list[str]:
    encoded = encode(turns, tokenizer, How(max_length=10_000, steps=kind, token_text=True))
    scored = [p for a, b in encoded.spans.reshape(-1, 2) for p in range(a, b)]
    text = dict(zip(scored, encoded.token_text, strict=True))
    pairs = encoded.steps.reshape(-1, 2)
    assert [
        p for a, b in pairs for p in range(a, b)
    ] == scored  # together the steps are the scored tokens
    return ["".join(text[p] for p in range(a, b)) for a, b in pairs]


def test_sentences(tokenizer):
    steps = steps_of(tokenizer, "sentence")
    assert "".join(steps) == TEXT
    want = [
        "<think>",
        "First, 3.14 is pi.",
        "Is it?",
        "Yes (e.g.",
        "\u03c0)!",
        "Now add.",
        "Then stop",
        "</think>",
        "The answer is 4.",
    ]
    assert [step.strip() for step in steps] == want


def test_paragraphs(tokenizer):
    steps = steps_of(tokenizer, "paragraph")
    assert "".join(steps) == TEXT
    assert [step.strip()[-8:] for step in steps] == ["Now add.", "</think>", "er is 4."]


def test_a_step_never_spans_two_turns(tokenizer):
    turns = [
        *TURNS[:1],
        {"role": "assistant", "content": "One. Two"},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "Three"},
    ]
    assert [step.strip() for step in steps_of(tokenizer, "sentence", turns)] == [
        "One.",
        "Two",
        "Three",
    ]


def test_token_text_of_characters_of_several_tokens(tokenizer):
    turns = [
        TURNS[0],
        {
            "role": "assistant",
            "content": "\U0001f9ee caf\u00e9 \u4e2d\u6587 "
            "\U0001f468\u200d\U0001f469\u200d\U0001f467.",
        },
    ]
    encoded = encode(turns, tokenizer, How(max_length=10_000, token_text=True))
    assert "".join(encoded.token_text) == turns[1]["content"]
    assert len(encoded.token_text) == sum(b - a for a, b in encoded.spans.reshape(-1, 2))


IDS = np.arange(30, dtype=np.int32)
SPANS = np.array([5, 15, 20, 30], np.int32)
STEPS = np.array([5, 8, 8, 11, 11, 15, 20, 25, 25, 30], np.int32)


@pytest.mark.parametrize(
    ("window", "want"),
    [
        (
            1,
            [
                [*range(8)],
                [*range(11)],
                [*range(5), *range(8, 15)],
                [*range(5), *range(11, 25)],
                [*range(5), *range(15, 30)],
            ],
        ),
        (9, [[*range(8)], [*range(11)], [*range(15)], [*range(25)], [*range(30)]]),
        # a quarter of 0, 1, 2, 3, 4 steps, rounded up: 0, 1, 1, 1, 1
        (
            0.25,
            [
                [*range(8)],
                [*range(11)],
                [*range(5), *range(8, 15)],
                [*range(5), *range(11, 25)],
                [*range(5), *range(15, 30)],
            ],
        ),
    ],
)
def test_a_step_is_scored_behind_the_prompt_and_the_last_steps(window, want):
    contexts = list(step_contexts(StepsOfRow(IDS, SPANS, STEPS), window, None))
    assert [c.ids.tolist() for c in contexts] == want
    assert [c.ids[slice(*c.spans)].tolist() for c in contexts] == [
        [*range(a, b)] for a, b in STEPS.reshape(-1, 2)
    ]


def test_a_context_over_the_limit_keeps_the_prompt_and_the_step():
    *_, last = step_contexts(StepsOfRow(IDS, SPANS, STEPS), 9, 12)
    assert last.ids.tolist() == [*range(5), *range(23, 30)]
    assert last.spans.tolist() == [7, 12]
    *_, last = step_contexts(StepsOfRow(IDS, SPANS, STEPS), 9, 10)
    assert last.ids.tolist() == [*range(5), *range(25, 30)]
    assert [context is None for context in step_contexts(StepsOfRow(IDS, SPANS, STEPS), 9, 9)] == [
        False,
        False,
        False,
        True,
        True,
    ]


def test_a_step_that_does_not_fit_beside_its_prompt_leaves_no_sum(student, tokenizer):
    encoded = encode(TURNS, tokenizer, How(max_length=10_000, steps="sentence"))
    row = StepsOfRow(encoded.input_ids, encoded.spans, encoded.steps)
    longest = int(np.diff(encoded.steps.reshape(-1, 2)).max())
    limit = int(encoded.spans[0]) + longest
    assert np.isfinite(score_steps(student, [row], Work(1000), 2, limit)).all()
    assert np.isnan(score_steps(student, [row], Work(1000), 2, limit - 1)).all()


def test_local_naturalness_equals_each_step_scored_alone_and_with_all_steps_the_global_one(
    student, tokenizer
):
    encoded = encode(TURNS, tokenizer, How(max_length=10_000, steps="sentence"))
    row = StepsOfRow(encoded.input_ids, encoded.spans, encoded.steps)
    pairs = encoded.steps.reshape(-1, 2)
    (whole,) = score_tokens(student, [encoded.input_ids], [encoded.spans], Work(1000))
    first = int(encoded.spans[0])
    of_steps = [whole.surprisal[a - first : b - first].mean(dtype=float) for a, b in pairs]
    for window in (len(pairs), len(pairs) + 5):
        assert score_steps(student, [row, row], Work(1000), window, None) == pytest.approx(
            [sum(of_steps)] * 2, rel=1e-5
        )
    alone = 0.0
    for n, (a, b) in enumerate(pairs):
        ids = np.concatenate(
            [encoded.input_ids[:first], encoded.input_ids[pairs[max(0, n - 2)][0] : b]]
        )
        (tokens,) = score_tokens(
            student, [ids], [np.array([len(ids) - (b - a), len(ids)])], Work(1000)
        )
        alone += tokens.surprisal.mean(dtype=float)
    near = score_steps(student, [row], Work(1000), 2, None)
    assert near == pytest.approx([alone], rel=1e-5)
    assert abs(near[0] - sum(of_steps)) > 1e-3  # a short context is another one
