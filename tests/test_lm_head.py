"""The laws of rank, surprisal and entropy, and the fast sweep against the slow definition."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsr_ray.engine.lm_head import sweep, token_stats
from rsr_ray.engine.lm_head_reference import token_stats_reference


def logits_of(seed: int, n: int, v: int, scale: float = 4.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, v, generator=generator) * scale, torch.randint(
        0, v, (n,), generator=generator
    )


shapes = {"seed": st.integers(0, 10_000), "n": st.integers(1, 40), "v": st.integers(1, 300)}


@settings(max_examples=60, deadline=None)
@given(**shapes, scale=st.floats(0.0, 30.0))
def test_equals_the_slow_definition(seed, n, v, scale):
    logits, target = logits_of(seed, n, v, scale)
    got, want = token_stats(logits, target), token_stats_reference(logits, target)
    assert torch.equal(got.rank, want[0])
    # float32 keeps 24 bits of a log-sum-exp of up to about 150: 1e-5 absolute
    torch.testing.assert_close(got.surprisal.double(), want[1], rtol=2e-6, atol=2e-5)
    torch.testing.assert_close(got.entropy.double(), want[2], rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(got.square.double(), want[3], rtol=2e-5, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(**shapes)
def test_surprisal_is_at_least_log_rank(seed, n, v):
    logits, target = logits_of(seed, n, v)
    rank, surprisal, entropy, _ = token_stats(logits, target)
    assert (rank >= 1).all()
    assert (rank <= v).all()
    assert (surprisal >= rank.float().log() - 1e-5).all()
    assert (entropy <= math.log(v) + 1e-5).all()


@settings(max_examples=40, deadline=None)
@given(**shapes, shift=st.floats(-50, 50))
def test_a_shift_or_a_permutation_of_the_vocabulary_changes_nothing(seed, n, v, shift):
    logits, target = logits_of(seed, n, v)
    logits = (logits * 1024).round() / 1024  # so that the shift cannot round two logits into a tie
    before = token_stats(logits, target)
    permutation = torch.randperm(v, generator=torch.Generator().manual_seed(seed))
    for changed, at in (
        (logits + round(shift), target),
        (logits[:, permutation], permutation.argsort()[target]),
    ):
        after = token_stats(changed, at)
        assert torch.equal(before.rank, after.rank)
        torch.testing.assert_close(before.surprisal, after.surprisal, rtol=1e-5, atol=2e-5)
        torch.testing.assert_close(before.entropy, after.entropy, rtol=1e-4, atol=2e-5)


def test_ties_never_raise_a_rank():
    logits = torch.tensor([[1.0, 1.0, 1.0, 0.0], [2.0, 2.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    assert token_stats(logits, torch.tensor([2, 0, 3])).rank.tolist() == [1, 3, 1]


def test_target_at_the_argmax_and_at_the_bottom():
    logits = torch.arange(50.0)[None].repeat(2, 1)
    assert token_stats(logits, torch.tensor([49, 0])).rank.tolist() == [1, 50]


def test_masked_vocabulary_gives_finite_numbers():
    logits = torch.tensor([[0.0, 0.0, -math.inf, -math.inf]])
    rank, surprisal, entropy, _ = token_stats(logits, torch.tensor([1]))
    assert rank.item() == 1
    assert surprisal.item() == pytest.approx(math.log(2))
    assert entropy.item() == pytest.approx(math.log(2))


def test_not_a_number_stays_not_a_number():
    assert torch.isnan(token_stats(torch.full((1, 4), math.nan), torch.tensor([0])).surprisal).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_ranks_compare_the_logits_the_model_gave(dtype):
    logits, target = logits_of(3, 64, 2000)
    logits = logits.to(dtype)
    assert torch.equal(token_stats(logits, target).rank, token_stats_reference(logits, target)[0])


@pytest.mark.parametrize("n", [1, 6, 7, 8, 13, 14, 15])
def test_chunks_change_nothing(n):
    vocabulary, width = 97, 16
    generator = torch.Generator().manual_seed(n)
    hidden, weight = (
        torch.randn(n, width, generator=generator),
        torch.randn(vocabulary, width, generator=generator),
    )
    target = torch.randint(0, vocabulary, (n,), generator=generator)
    held = []

    def head(hidden_cD: torch.Tensor) -> torch.Tensor:
        held.append(len(hidden_cD))
        return hidden_cD.double() @ weight.double().T

    chunked = sweep(hidden, target, head, vocabulary, head_bytes=7 * vocabulary * 16)
    assert max(held) <= 7
    whole = token_stats(hidden.double() @ weight.double().T, target)
    for a, b in zip(chunked, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
