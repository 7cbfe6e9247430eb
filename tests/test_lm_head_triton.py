"""The kernel for GPUs against the slow definition; on a CPU Triton's interpreter runs it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsr_ray.engine.lm_head_reference import token_stats_reference

lm_head_triton = pytest.importorskip("rsr_ray.engine.lm_head_triton")
token_stats_triton = lm_head_triton.token_stats_triton

KINDS = (torch.float32, torch.bfloat16, torch.float16)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(0, 5),
    v=st.integers(1, 200),
    scale=st.sampled_from([0.0, 1.0, 4.0, 30.0]),
    kind=st.sampled_from(KINDS),
    block=st.sampled_from([16, 64]),
    spread=st.booleans(),
)
def test_equals_the_slow_definition(seed, n, v, scale, kind, block, spread):
    """Ugly shapes, ties (scale 0, few bits), logits that do not lie side by side, -inf."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(n, v, generator=generator) * scale).to(kind)
    target = torch.randint(0, v, (n,), generator=generator)
    hidden = torch.rand(n, v, generator=generator) < 0.1
    logits[hidden.scatter(1, target[:, None], False)] = -math.inf
    if spread:
        logits = torch.stack([logits, logits + 1], 2)[:, :, 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm_head_triton, "BLOCK", block)
        got = token_stats_triton(logits, target)
    want = token_stats_reference(logits, target)
    assert torch.equal(got[0], want[0])
    for mine, slow in zip(got[1:], want[1:], strict=True):
        torch.testing.assert_close(mine.double(), slow, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's, of which the interpreter is made
def test_what_is_no_number_stays_none(bad):
    logits = torch.tensor([[0.0, 1.0, bad, 2.0]])
    _, surprisal, entropy, square = token_stats_triton(logits, torch.tensor([1]))
    assert not any(values.isfinite().any() for values in (surprisal, entropy, square))
