"""The slow definition of what is scored: full logits, float64, one line a quantity.

Everything faster is tested against it. Source of the formulas: arXiv 2601.14249 (rank, surprisal,
RSR). Legend: N tokens, V vocabulary.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def token_stats_reference(
    logits_NV: "torch.Tensor", target_N: "torch.Tensor"
) -> tuple["torch.Tensor", ...]:
    """Statistics of target tokens under logits.

    Rank int64 [N], surprisal and entropy float64 [N] in nats, and sum of squared probabilities
    float64 [N]. rank = 1 + #{v : logit(v) > logit(target)}: 1-based and strictly greater, so ties
    never raise it. surprisal = -ln p(target); entropy = -sum_v p(v) ln p(v), with 0 ln 0 = 0;
    square = sum_v p(v)^2.
    """
    import torch

    logits_NV = logits_NV.double()
    target_N1 = target_N[:, None]
    log_p_NV = torch.log_softmax(logits_NV, dim=-1)
    rank_N = 1 + (logits_NV > logits_NV.gather(1, target_N1)).sum(-1)
    surprisal_N = -log_p_NV.gather(1, target_N1)[:, 0]
    entropy_N = torch.special.entr(log_p_NV.exp()).sum(-1)
    square_N = (2 * log_p_NV).exp().sum(-1)
    return rank_N, surprisal_N, entropy_N, square_N
