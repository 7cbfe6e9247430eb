"""Which rows go through the student together."""

import numpy as np

NEAR = 0.9  # a row at least this long, as a share of the batch's longest, pads it little enough
FULL = 0.25  # from this share of its budget on, a batch works the device well enough to stop before a row that is not near


def batches(lengths: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Row numbers of each batch: rows of similar length together, longest first.

    A batch padded to its longest row holds at most `batch_tokens` positions; a longer row goes alone. Depends on the
    lengths alone, so the same rows are batched the same way on every replica and every run.
    """
    order = np.argsort(-lengths, kind="stable")
    out, start = [], 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        most = max(1, batch_tokens // longest)
        near = int(np.searchsorted(-lengths[order[start:]], -NEAR * longest, side="right"))
        rows = min(most, max(near, int(FULL * most), 1))
        out.append(order[start : start + rows])
        start += rows
    return out
