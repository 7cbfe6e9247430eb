"""Rows of token ids -> what the student says of their scored tokens, batch by batch.

Legend: B rows of a batch, T positions, N scored positions, D hidden size, V vocabulary.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rsr_ray.engine.batching import batches
from rsr_ray.engine.lm_head import TokenStats, sweep
from rsr_ray.engine.sums import Tokens, sum_by_row

if TYPE_CHECKING:
    import torch


Images = list[Sequence[bytes]]  # of each row


class Halves(Protocol):
    """A student as it is needed here: a backbone, and a head."""

    packed: bool  # rows go through it one behind the other, without padding
    vocab_size: int
    n_devices: int  # that its layers are on

    def beside_head(self, values_N: np.ndarray, /) -> "torch.Tensor":
        """Values on the device of the head, without waiting for the device."""

    def hidden(
        self, ids_BT: np.ndarray, position_BT: np.ndarray | None, images: Images | None, /
    ) -> "torch.Tensor":
        """Hidden states [B, T, D]. `images` are those of each row, all of which have some."""

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
    student: Halves,
    ids: list[np.ndarray],
    spans: list[np.ndarray],
    work: Work,
    r_max: int,
    images: Images | None = None,
) -> dict[str, np.ndarray]:
    """Sums of each row, in the order given, as `sum_by_row` defines them; 0 tokens, and sums
    that are no number, where a row does not fit.
    """
    found = score_tokens(student, ids, spans, work, images)
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
    student: Halves,
    ids: list[np.ndarray],
    spans: list[np.ndarray],
    work: Work,
    images: Images | None = None,
) -> list[Tokens | None]:
    """The scored tokens of each row, in the order given.

    `ids` int32 [T], `spans` int32 [2S] and `images` a row, as `encode` gives them: every span
    starts at 1 or later. Rows with images are in batches of their own. A batch that does not fit
    into memory is split, and batches are smaller from then on; a row that does not fit alone gives
    None. More batches are begun while the results of one are fetched: one more than the student
    has devices.
    """
    import torch

    rows = _Rows.of(ids, spans, images, packed=student.packed)
    found: list[Tokens | None] = [None] * len(ids)
    left = rows.batches(np.arange(len(ids)), work)
    begun = deque[_Begun]()
    while left:
        batch = left.pop(0)
        n_positions, size = rows.sizes(batch)
        try:
            begun.append(rows.begin(student, batch))
        except torch.OutOfMemoryError:
            _fetch(begun, found, 0)
            torch.cuda.empty_cache()
            if len(batch) == 1:
                continue
            work.splits += 1
            work.batch_tokens = size // 2
            left = rows.batches(np.concatenate([batch, *left]), work)
            continue
        work.padded += size
        work.positions += n_positions
        _fetch(begun, found, student.n_devices)
    _fetch(begun, found, 0)
    return found


def _fetch(begun: "deque[_Begun]", found: list[Tokens | None], most: int) -> None:
    """Results of the oldest batches, until at most so many are under way."""
    while len(begun) > most:
        oldest = begun.popleft()
        for i, row in zip(oldest.batch, oldest.tokens(), strict=True):
            found[i] = row


class _Begun:
    """A batch that a student has begun; its statistics are copied when they are there."""

    def __init__(self, batch: np.ndarray, stats: TokenStats, n_scored: list[int]):
        import torch

        self.batch = batch  # int [B]: its rows
        self.n_scored = n_scored
        # copied into pinned memory, so that nothing waits for them here
        self.stats = [values.to("cpu", non_blocking=True) for values in stats]
        self.copied = None
        if stats.rank.is_cuda:
            with torch.cuda.device(stats.rank.device):
                self.copied = torch.cuda.Event()
                self.copied.record()

    def tokens(self) -> list[Tokens]:
        """The scored tokens of its rows, once they are there."""
        if self.copied is not None:
            self.copied.synchronize()
        return Tokens(*(values.numpy() for values in self.stats)).split(self.n_scored)


@dataclass(frozen=True)
class _Rows:
    """What is to be scored."""

    ids: list[np.ndarray]
    spans: list[np.ndarray]
    images: Images
    sees: np.ndarray  # bool [R]: whether a row has images
    lengths: np.ndarray  # int64 [R]: positions of a row
    packed: bool

    @classmethod
    def of(
        cls, ids: list[np.ndarray], spans: list[np.ndarray], images: Images | None, *, packed: bool
    ) -> "_Rows":
        images = images or [()] * len(ids)
        sees = np.array([bool(of_row) for of_row in images], bool)
        lengths = np.array([len(row) - 1 for row in ids], np.int64)
        return cls(ids, spans, images, sees, lengths, packed)

    def batches(self, rows: np.ndarray, work: Work) -> list[np.ndarray]:
        """The batches of some rows, those without images first."""
        return [
            some[batch]
            for some in (rows[~self.sees[rows]], rows[self.sees[rows]])
            for batch in batches(self.lengths[some], work.batch_tokens, packed=self.packed)
        ]

    def sizes(self, batch: np.ndarray) -> tuple[int, int]:
        """Positions of a batch, without padding and with it."""
        lengths = self.lengths[batch]
        n_positions = int(lengths.sum())
        return n_positions, n_positions if self.packed else len(batch) * int(lengths.max())

    def begin(self, student: Halves, batch: np.ndarray) -> _Begun:
        """Begin a batch."""
        import torch

        # the last token is only ever a target
        rows = [self.ids[i][:-1].astype(np.int64) for i in batch]
        spans = [self.spans[i].reshape(-1, 2) for i in batch]
        scored = [np.concatenate([np.arange(a, b) for a, b in pairs]) for pairs in spans]
        if self.packed:
            ids_BT = np.concatenate(rows)[None]
            position_BT = np.concatenate([np.arange(len(row)) for row in rows])[None]
            starts = np.cumsum([0] + [len(row) for row in rows[:-1]])
        else:
            ids_BT = np.zeros((len(rows), max(map(len, rows))), np.int64)
            for b, row in enumerate(rows):
                ids_BT[b, : len(row)] = row
            position_BT = None
            starts = np.arange(len(rows)) * ids_BT.shape[1]
        images = [self.images[i] for i in batch] if self.sees[batch[0]] else None
        # hidden state i predicts token i + 1
        source_N = np.concatenate([start + p - 1 for start, p in zip(starts, scored, strict=True)])
        target_N = np.concatenate([self.ids[i][p] for i, p in zip(batch, scored, strict=True)])
        with torch.inference_mode():
            hidden_BTD = student.hidden(ids_BT, position_BT, images)
            hidden_ND = hidden_BTD.flatten(0, 1)[student.beside_head(source_N)]
            target = student.beside_head(target_N.astype(np.int64))
            stats = sweep(hidden_ND, target, student.logits, student.vocab_size)
            return _Begun(batch, stats, [len(p) for p in scored])
