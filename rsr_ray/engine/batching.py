"""Which rows go through the student together."""

import numpy as np

NEAR = 0.9  # a row at least this long, as a share of the batch's longest, pads it little enough
# from this share of its budget on, a batch works the device well enough to stop before a row that
# is not near
FULL = 0.25


def batches(lengths: np.ndarray, batch_tokens: int, *, packed: bool = False) -> list[np.ndarray]:
    """Row numbers of each batch: rows of similar length together, longest first.

    A batch padded to its longest row, or `packed` without padding, holds at most `batch_tokens`
    positions; a longer row goes alone. Depends on the lengths alone, so the same rows are batched
    the same way on every replica and every run.
    """
    order = np.argsort(-lengths, kind="stable")
    if packed:
        return _packs(order, lengths, batch_tokens)
    out, start = [], 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        most = max(1, batch_tokens // longest)
        near = int(np.searchsorted(-lengths[order[start:]], -NEAR * longest, side="right"))
        rows = min(most, max(near, int(FULL * most), 1))
        out.append(order[start : start + rows])
        start += rows
    return out


def _packs(order: np.ndarray, lengths: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    out: list[list[int]] = []
    room = 0
    for row in order:
        if lengths[row] > room:
            out.append([])
            room = batch_tokens
        out[-1].append(row)
        room -= int(lengths[row])
    return [np.array(batch) for batch in out]
