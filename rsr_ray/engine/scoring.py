"""Rows of token ids -> what the student says of their scored tokens, batch by batch.

Legend: B rows of a batch, T positions, N scored positions, D hidden size, V vocabulary.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rsr_ray.engine.batching import batches
from rsr_ray.engine.lm_head import sweep
from rsr_ray.engine.sums import Tokens, sum_by_row

if TYPE_CHECKING:
    import torch


class Halves(Protocol):
    """A student as it is needed here: a backbone, and a head."""

    packed: bool  # rows go through it one behind the other, without padding
    vocab_size: int
    head_device: "torch.device"

    def hidden(self, ids_BT: np.ndarray, position_BT: np.ndarray | None, /) -> "torch.Tensor":
        """Hidden states [B, T, D]."""

    def logits(self, hidden_ND: "torch.Tensor", /) -> "torch.Tensor":
        """Logits [N, V]."""


@dataclass
class Work:
    """The batch budget of a replica, which shrinks where memory runs out, and what its batches
    held.
    """

    batch_tokens: int
    splits: int = 0
    padded: int = 0  # positions, padding included
    positions: int = 0  # without it


def score_rows(
    student: Halves, ids: list[np.ndarray], spans: list[np.ndarray], work: Work, r_max: int
) -> dict[str, np.ndarray]:
    """Sums of each row, in the order given, as `sum_by_row` defines them; 0 tokens, and sums
    that are no number, where a row does not fit.
    """
    found = score_tokens(student, ids, spans, work)
    fit = [i for i, row in enumerate(found) if row is not None]
    sums = {name: np.zeros(len(ids), np.int64) for name in ("n_tokens", "rank_sum")}
    sums |= {name: np.full(len(ids), np.nan) for name in ("surprisal_sum", "entropy_sum")}
    if fit:
        tokens = [row for row in found if row is not None]
        lengths = np.array([len(row.rank) for row in tokens])
        for name, values in sum_by_row(Tokens.join(tokens), lengths, r_max).items():
            sums[name][fit] = values
    return sums


def score_tokens(
    student: Halves, ids: list[np.ndarray], spans: list[np.ndarray], work: Work
) -> list[Tokens | None]:
    """The scored tokens of each row, in the order given.

    `ids` int32 [T] and `spans` int32 [2S] a row, as `encode` gives them: every span starts at 1 or
    later. A batch that does not fit into memory is split, and batches are smaller from then on; a
    row that does not fit alone gives None.
    """
    import torch

    lengths = np.array([len(row) - 1 for row in ids], np.int64)
    found: list[Tokens | None] = [None] * len(ids)
    left = batches(lengths, work.batch_tokens, packed=student.packed)
    while left:
        batch = left.pop(0)
        n_positions = int(lengths[batch].sum())
        size = n_positions if student.packed else len(batch) * int(lengths[batch].max())
        try:
            tokens = _score_batch(student, [ids[i] for i in batch], [spans[i] for i in batch])
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            if len(batch) == 1:
                continue
            work.splits += 1
            work.batch_tokens = size // 2
            rows = np.concatenate([batch, *left])
            smaller = batches(lengths[rows], work.batch_tokens, packed=student.packed)
            left = [rows[again] for again in smaller]
            continue
        work.padded += size
        work.positions += n_positions
        for i, row in zip(batch, tokens, strict=True):
            found[i] = row
    return found


def _score_batch(student: Halves, ids: list[np.ndarray], spans: list[np.ndarray]) -> list[Tokens]:
    import torch

    rows = [row[:-1].astype(np.int64) for row in ids]  # the last token is only ever a target
    scored = [np.concatenate([np.arange(a, b) for a, b in s.reshape(-1, 2)]) for s in spans]
    if student.packed:
        ids_BT = np.concatenate(rows)[None]
        position_BT = np.concatenate([np.arange(len(row)) for row in rows])[None]
        starts = np.cumsum([0] + [len(row) for row in rows[:-1]])
    else:
        ids_BT = np.zeros((len(rows), max(map(len, rows))), np.int64)
        for b, row in enumerate(rows):
            ids_BT[b, : len(row)] = row
        position_BT = None
        starts = np.arange(len(rows)) * ids_BT.shape[1]
    # hidden state i predicts token i + 1
    source_N = torch.from_numpy(
        np.concatenate([start + p - 1 for start, p in zip(starts, scored, strict=True)])
    ).to(student.head_device)
    target_N = torch.from_numpy(
        np.concatenate([row[p] for row, p in zip(ids, scored, strict=True)]).astype(np.int64)
    ).to(student.head_device)
    with torch.inference_mode():
        hidden_ND = student.hidden(ids_BT, position_BT).flatten(0, 1)[source_N]
        stats = sweep(hidden_ND, target_N, student.logits, student.vocab_size)
        whole = Tokens(*(values.cpu().numpy() for values in stats))
    return whole.split([len(p) for p in scored])
