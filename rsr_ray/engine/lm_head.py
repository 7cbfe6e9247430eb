"""Statistics of target tokens from hidden states, without the logits of a whole sequence.

They are rank, surprisal, entropy and squared probabilities. Legend: N scored positions, D hidden
size, V vocabulary.
"""

import logging
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

HEAD_BYTES = 512 << 20
BYTES_A_LOGIT = 16  # the model's logit and at most three float32 values made of it live at once
# On a GPU: of the logits of a chunk, at 4 bytes each. With fewer than some 300 positions (H100) a
# chunk's time is that of reading the head's weights; this is 1,766 at vocabulary 151,936.
GPU_BYTES = 1 << 30
# On a CPU: logits swept together stay in its cache. A third of the time of a whole chunk's, see
# CHANGELOG.
CACHE_BYTES = 1 << 20


class TokenStats(NamedTuple):
    """Per token: rank int64 [N] from 1, surprisal and entropy float32 [N] in nats.

    Also the sum of squared probabilities, float32 [N].
    """

    rank: "torch.Tensor"
    surprisal: "torch.Tensor"
    entropy: "torch.Tensor"
    square: "torch.Tensor"


def token_stats(logits_NV: "torch.Tensor", target_N: "torch.Tensor") -> TokenStats:
    """Equal to `token_stats_reference`, in float32.

    The rank compares logits in the dtype the model gave them: a tie there is a tie. Adding a
    constant to all logits or permuting the vocabulary changes nothing beyond rounding.
    """
    if logits_NV.is_cuda and (in_one_reading := _kernel()):
        rank_N, surprisal_N, entropy_N, square_N = in_one_reading(logits_NV, target_N)
        return TokenStats(rank_N, surprisal_N.clamp_min(0.0), entropy_N.clamp_min(0.0), square_N)
    most = HEAD_BYTES // BYTES_A_LOGIT if logits_NV.is_cuda else CACHE_BYTES // 4
    rows = max(1, most // logits_NV.shape[1])
    return _join(
        [
            _token_stats(logits_nV, target_n)
            for logits_nV, target_n in zip(logits_NV.split(rows), target_N.split(rows), strict=True)
        ]
    )


@cache
def _kernel() -> Callable[..., tuple["torch.Tensor", ...]] | None:
    """The kernel for GPUs, tried once; None, with a warning, where this machine cannot build it."""
    import torch

    try:
        from rsr_ray.engine.lm_head_triton import token_stats_triton

        token_stats_triton(
            torch.zeros(1, 2, device="cuda"), torch.zeros(1, dtype=torch.int64, device="cuda")
        )
    except Exception as e:  # of many kinds: no Triton, no C compiler, an unknown GPU
        logging.getLogger(__name__).warning(
            "the Triton kernel of the head cannot be used (%s: %s): torch alone is slower",
            type(e).__name__,
            e,
        )
        return None
    return token_stats_triton


def _token_stats(logits_NV: "torch.Tensor", target_N: "torch.Tensor") -> TokenStats:
    import torch

    at_target_N1 = logits_NV.gather(1, target_N[:, None])
    # Counted in float32, exact below 2**24: comparing into bools and adding those takes a CPU seven
    # times as long.
    greater_NV = torch.gt(
        logits_NV, at_target_N1, out=torch.empty_like(logits_NV, dtype=torch.float32)
    )
    rank_N = 1 + greater_NV.sum(-1).long()
    top_N1 = logits_NV.amax(-1, keepdim=True).float()
    # exp is exactly 0 long before -1e4: the clamp only keeps 0 * -inf from being nan
    below_NV = (logits_NV.float() - top_N1).clamp_min_(-1e4)
    weight_NV = below_NV.exp()
    total_N = weight_NV.sum(-1)
    log_total_N = total_N.log()
    surprisal_N = log_total_N - (at_target_N1.float() - top_N1)[:, 0]
    # -sum p ln p with ln p = below - ln total, as one dot product a row
    entropy_N = log_total_N - torch.bmm(weight_NV[:, None], below_NV[:, :, None]).view(-1) / total_N
    square_N = torch.bmm(weight_NV[:, None], weight_NV[:, :, None]).view(-1) / total_N.square()
    return TokenStats(rank_N, surprisal_N.clamp_min(0.0), entropy_N.clamp_min(0.0), square_N)


def _join(parts: list[TokenStats]) -> TokenStats:
    import torch

    return TokenStats(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def sweep(
    hidden_ND: "torch.Tensor",
    target_N: "torch.Tensor",
    head: Callable[["torch.Tensor"], "torch.Tensor"],
    vocab_size: int,
    head_bytes: int = HEAD_BYTES,
) -> TokenStats:
    """`token_stats(head(hidden_ND), target_N)` in chunks that hold at most about `head_bytes`, or
    GPU_BYTES on a GPU.
    """
    a_position = vocab_size * BYTES_A_LOGIT
    if hidden_ND.is_cuda:
        head_bytes, a_position = GPU_BYTES, vocab_size * 4
    chunk = max(1, head_bytes // a_position)
    chunks = zip(hidden_ND.split(chunk), target_N.split(chunk), strict=True)
    return _join([token_stats(head(hidden_cD), target_c) for hidden_cD, target_c in chunks])
