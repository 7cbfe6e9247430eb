"""Which rows go through the student together."""

import numpy as np


def batches(lengths: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Row numbers of each batch: rows of similar length together, longest first.

    A batch padded to its longest row holds at most `batch_tokens` positions; a longer row goes alone. Depends on the
    lengths alone, so the same rows are batched the same way on every replica and every run.
    """
    order = np.argsort(-lengths, kind="stable")
    out, start = [], 0
    while start < len(order):
        rows = max(1, batch_tokens // int(lengths[order[start]]))
        out.append(order[start : start + rows])
        start += rows
    return out
