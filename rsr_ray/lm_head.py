"""Rank, surprisal and entropy of target tokens, from hidden states, without the logits of a whole sequence.

Legend: N scored positions, D hidden size, V vocabulary.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

FLOATS_A_LOGIT = 4  # the model's own logits and at most three float32 tensors of their shape live at once
HEAD_BYTES = 256 << 20


class TokenStats(NamedTuple):
    """Per token: rank int64 [N] from 1, surprisal and entropy float32 [N] in nats."""

    rank: "torch.Tensor"
    surprisal: "torch.Tensor"
    entropy: "torch.Tensor"


def token_stats(logits_NV: "torch.Tensor", target_N: "torch.Tensor") -> TokenStats:
    """Equal to `token_stats_reference`, in float32.

    The rank compares logits in the dtype the model gave them: a tie there is a tie. Adding a constant to all logits
    or permuting the vocabulary changes nothing beyond rounding.
    """
    import torch

    at_target_N1 = logits_NV.gather(1, target_N[:, None])
    rank_N = 1 + (logits_NV > at_target_N1).sum(-1)
    log_p_NV = logits_NV.float() - torch.logsumexp(logits_NV.float(), -1, keepdim=True)
    surprisal_N = -log_p_NV.gather(1, target_N[:, None])[:, 0]
    # p is exactly 0 long before ln p reaches -1e4: the clamp only keeps 0 * -inf from being nan
    entropy_N = -(log_p_NV.exp() * log_p_NV.clamp_min(-1e4)).sum(-1)
    return TokenStats(rank_N, surprisal_N.clamp_min(0.0), entropy_N.clamp_min(0.0))


def sweep(
    hidden_ND: "torch.Tensor",
    target_N: "torch.Tensor",
    head: Callable[["torch.Tensor"], "torch.Tensor"],
    vocab_size: int,
    head_bytes: int = HEAD_BYTES,
) -> TokenStats:
    """`token_stats(head(hidden_ND), target_N)`, a chunk of positions at a time, holding at most about `head_bytes`."""
    import torch

    chunk = max(1, head_bytes // (vocab_size * 4 * FLOATS_A_LOGIT))
    parts = [token_stats(head(hidden_cD), target_c) for hidden_cD, target_c in zip(hidden_ND.split(chunk), target_N.split(chunk), strict=True)]
    return TokenStats(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
