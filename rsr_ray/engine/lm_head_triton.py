"""The statistics of target tokens in one reading of their logits, by a Triton kernel.

A program reads the logits of one token, a block at a time; each lane keeps the running sums of what
it has seen, relative to the largest logit it has seen (M. Milakov, N. Gimelshein, Online normalizer
calculation for softmax, arXiv 1805.02867), and the lanes are joined at the end. Reading with torch
alone passes over the logits, and float32 values made of them, some ten times. Legend: N scored
positions, V vocabulary.
"""

import torch
import triton
import triton.language as tl

BLOCK = 2048  # logits that a program reads at once
LOWEST = -1e30  # stands for -inf, so that differences are numbers


def token_stats_triton(logits_NV: torch.Tensor, target_N: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Rank int64 [N], surprisal, entropy and sum of squared probabilities, float32 [N]: those of
    `token_stats_reference`, in float32.
    """
    n, v = logits_NV.shape
    rank_N = torch.empty(n, dtype=torch.int64, device=logits_NV.device)
    floats = [torch.empty(n, dtype=torch.float32, device=logits_NV.device) for _ in range(3)]
    if n:
        block = min(BLOCK, triton.next_power_of_2(v))
        _token_stats[(n,)](
            logits_NV, target_N, rank_N, *floats, *logits_NV.stride(), v, LOWEST, block, num_warps=8
        )
    return rank_N, *floats


@triton.jit
def _token_stats(  # type: ignore[no-untyped-def]
    logits,
    target,
    rank,
    surprisal,
    entropy,
    square,
    row_stride,
    stride,
    n_logits,
    LOWEST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64)
    row = logits + at * row_stride
    of_target = tl.load(row + tl.load(target + at) * stride).to(tl.float32)
    # Of each lane, with top its largest logit so far: the number of logits above the target's, and
    # the sums of e^(x - top), of (x - top) e^(x - top) and of e^(2 (x - top)).
    top = tl.full([BLOCK], LOWEST, tl.float32)
    above = tl.zeros([BLOCK], tl.int32)
    total = tl.zeros([BLOCK], tl.float32)
    weighted = tl.zeros([BLOCK], tl.float32)
    squares = tl.zeros([BLOCK], tl.float32)
    for start in range(0, n_logits, BLOCK):
        column = start + tl.arange(0, BLOCK)
        is_there = column < n_logits
        x = tl.load(row + column * stride, mask=is_there, other=float("-inf")).to(tl.float32)
        above += (x > of_target).to(tl.int32)
        x = tl.where(x < LOWEST, LOWEST, x)
        new_top = tl.where(x > top, x, top)
        down = top - new_top
        shrink = tl.exp(down)
        below = x - new_top
        weight = tl.where(is_there, tl.exp(below), 0.0)
        # (x - new top) = (x - top) + (top - new top); where nothing was seen yet, both sums are 0
        weighted = shrink * (weighted + tl.where(total > 0, down * total, 0.0)) + weight * below
        total = shrink * total + weight
        squares = shrink * shrink * squares + weight * weight
        top = new_top
    highest = tl.max(top, 0)
    down = top - highest
    shrink = tl.exp(down)
    of_all = tl.sum(shrink * total, 0)
    log_of_all = tl.log(of_all)
    weighted = tl.sum(shrink * (weighted + down * total), 0)
    tl.store(rank + at, 1 + tl.sum(above, 0).to(tl.int64))
    tl.store(surprisal + at, log_of_all - (of_target - highest))
    tl.store(entropy + at, log_of_all - weighted / of_all)
    tl.store(square + at, tl.sum(shrink * shrink * squares, 0) / (of_all * of_all))
