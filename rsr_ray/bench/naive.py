"""The naive way, which is the published script's.

Rows in file order, right-padded rectangles of four, the logits of every position, a float32 copy of
them, and the top 100.
"""

from typing import Any

import numpy as np

from rsr_ray.student.model import load_whole

NAIVE_ROWS = 4


def whole_model(folder: str, dtype: str, device: str) -> Any:
    import torch

    return load_whole(folder, dtype).to(torch.device(device)).eval()


def naive_rows(
    model: Any, ids: list[np.ndarray], spans: list[np.ndarray], r_max: int
) -> dict[str, np.ndarray]:
    """Rank and surprisal sums the naive way."""
    import torch

    rank_sums, surprisal_sums = [], []
    for start in range(0, len(ids), NAIVE_ROWS):
        rows, row_spans = ids[start : start + NAIVE_ROWS], spans[start : start + NAIVE_ROWS]
        padded = np.zeros((len(rows), max(map(len, rows))), np.int64)
        mask = np.zeros_like(padded)
        for b, row in enumerate(rows):
            padded[b, : len(row)], mask[b, : len(row)] = row, 1
        ids_BT = torch.from_numpy(padded).to(model.device)
        with torch.inference_mode():
            logits_BTV = model(
                input_ids=ids_BT,
                attention_mask=torch.from_numpy(mask).to(model.device),
                use_cache=False,
            ).logits
            log_p_BTV = torch.log_softmax(logits_BTV.to(torch.float32, copy=True), dim=-1)
            for b, (first, last) in enumerate(row_spans):
                target_N = ids_BT[b, first:last]
                log_p_NV = log_p_BTV[b, first - 1 : last - 1]
                surprisal_sums.append(-log_p_NV.gather(1, target_N[:, None]).double().sum().item())
                top_N100 = log_p_NV.topk(r_max, dim=-1).indices
                hit_N100 = top_N100 == target_N[:, None]
                rank_N = torch.where(hit_N100.any(1), hit_N100.int().argmax(1) + 1, r_max)
                rank_sums.append(int(rank_N.sum()))
    return {"rank_sum": np.array(rank_sums), "surprisal_sum": np.array(surprisal_sums)}


def naive_padding(lengths: np.ndarray) -> float:
    """The share of padding in its positions."""
    batches = [lengths[i : i + NAIVE_ROWS] for i in range(0, len(lengths), NAIVE_ROWS)]
    return float(1 - lengths.sum() / sum(len(batch) * batch.max() for batch in batches))
