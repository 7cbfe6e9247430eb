"""sums: what buckets of trajectories add up to, by teacher and block of prompts.

What is added up does not depend on how many buckets there are: a block lies whole in one of them,
and its rows always come in the same order. Legend: N trajectories, P prompts of a bucket, B blocks,
T teachers.
"""

from dataclasses import dataclass

import numpy as np

from rsr_ray.decide.buckets import BLOCK_BITS
from rsr_ray.decide.matrices import Blocks, Prompts, ratio
from rsr_ray.metrics import Metric

SOME_PROMPTS = 10_000  # of which it is kept who answered them
LEAST_BITS = 9  # 512 blocks are as many as are ever drawn apart (inference.GROUPS)


@dataclass(frozen=True)
class Rows:
    """Trajectories of a bucket, or some of them."""

    prompt: np.ndarray  # int [N]: index into the bucket's prompts, sorted
    block: np.ndarray  # int [P]: of each of these
    teacher: np.ndarray  # int [N]
    columns: dict[str, np.ndarray]  # float64 [N] each

    def where(self, keep: np.ndarray, teacher: np.ndarray | None = None) -> "Rows":
        """Those of a mask, bool [N], with other numbers for their teachers, if given."""
        own = self.teacher if teacher is None else teacher
        if keep.all():
            return Rows(self.prompt, self.block, own, self.columns)
        columns = {name: values[keep] for name, values in self.columns.items()}
        return Rows(self.prompt[keep], self.block, own[keep], columns)


def bits_of(n_teachers: int, most_cells: int) -> int:
    """Of as many blocks as that many cells allow, [B, T]."""
    return int(np.clip((most_cells // max(1, n_teachers)).bit_length() - 1, LEAST_BITS, BLOCK_BITS))


class TermSums:
    """Sums of a metric's terms: `Blocks` in the making. Who answered them is kept of the first
    SOME_PROMPTS in so many blocks.
    """

    ADDED = ("every", "shared", "n_prompts", "n_shared", "answered", "without", "won")

    def __init__(
        self, metric: Metric, n_teachers: int, bits: int, some_blocks: float = 1 << BLOCK_BITS
    ):
        self.metric, self.n_teachers, self.bits = metric, n_teachers, bits
        self.some_blocks = some_blocks
        self.every = np.zeros((3, 1 << bits, n_teachers))  # x, y, n
        self.shared = np.zeros((3, 1 << bits, n_teachers))
        self.n_prompts, self.n_shared = 0, 0
        self.answered = np.zeros(n_teachers, np.int64)
        self.without = np.zeros(n_teachers, np.int64)
        self.won = np.zeros(n_teachers)
        self.some: list[np.ndarray] = []

    def add(self, rows: Rows) -> None:
        n_T, n_P = self.n_teachers, len(rows.block)
        with np.errstate(divide="ignore", invalid="ignore"):
            x, y = self.metric.terms(rows.columns, rows.prompt)
        there = np.isfinite(x) & np.isfinite(y)
        cells, at = np.unique((rows.prompt * n_T + rows.teacher)[there], return_inverse=True)
        n, x, y = (np.bincount(at, w, len(cells)) for w in (None, x[there], y[there]))
        prompt, teacher = np.divmod(cells, n_T)
        n_teachers = np.bincount(prompt, minlength=n_P)  # int [P]: that answered it
        is_whole = n_teachers == n_T
        all_did = is_whole[prompt]
        flat = (rows.block >> (BLOCK_BITS - self.bits))[prompt] * n_T + teacher
        size, shape = self.every[0].size, self.every[0].shape
        for total, values in zip(self.every, (x, y, n), strict=True):
            total += np.bincount(flat, values, size).reshape(shape)
        means = [values[all_did] / n[all_did] for values in (x, y, n)]
        for total, values in zip(self.shared, means, strict=True):
            total += np.bincount(flat[all_did], values, size).reshape(shape)
        self.n_prompts += int((n_teachers > 0).sum())
        self.n_shared += int(is_whole.sum())
        self.answered += np.bincount(teacher, minlength=n_T)
        self._count_first(*(values.reshape(-1, n_T) for values in means[:2]))
        self._count_without(prompt, teacher, n_teachers)
        self._see(prompt, teacher, rows.block)

    def exchange(self, gone: "TermSums", come: "TermSums") -> None:
        """Have the sums of some prompts in place of those that they had before."""
        for name in self.ADDED:
            setattr(self, name, getattr(self, name) - getattr(gone, name) + getattr(come, name))
        for sums in (self.every, self.shared):
            sums[:2, sums[2] == 0] = 0  # what rounding left

    def _count_first(self, x: np.ndarray, y: np.ndarray) -> None:
        if len(x):
            values = self.metric.order(ratio(x, y))
            first = values == np.nanmin(values, axis=1, keepdims=True)
            self.won += (first / first.sum(1, keepdims=True)).sum(0)

    def _count_without(
        self, prompt: np.ndarray, teacher: np.ndarray, n_teachers: np.ndarray
    ) -> None:
        """`n_teachers` int [P] answered each prompt."""
        n_T = self.n_teachers
        of_one = np.flatnonzero(n_teachers == n_T - 1)
        codes = np.bincount(prompt, teacher, len(n_teachers))[of_one].astype(np.int64)
        missing = n_T * (n_T - 1) // 2 - codes
        self.without += np.bincount(missing, minlength=n_T) + int((n_teachers == n_T).sum())

    def _see(self, prompt: np.ndarray, teacher: np.ndarray, block: np.ndarray) -> None:
        """Keep who answered prompts, while there are few."""
        left = SOME_PROMPTS - sum(map(len, self.some))
        if left > 0 and (block < self.some_blocks).any():
            answered = np.zeros((len(block), self.n_teachers), bool)
            answered[prompt, teacher] = True
            self.some.append(answered[answered.any(1) & (block < self.some_blocks)][:left])

    def result(self) -> Blocks:
        none = np.zeros((0, self.n_teachers), bool)
        some = np.concatenate([none, *self.some])
        won = self.won / self.n_shared if self.n_shared else None
        matched = Prompts(
            self.n_shared, np.full(self.n_teachers, self.n_shared), self.without, some, won
        )
        x, y, n = _filled(self.shared)
        shared = Blocks(x, y, n, matched, None)
        prompts = Prompts(self.n_prompts, self.answered, self.without, some)
        x, y, n = _filled(self.every)
        return Blocks(x, y, n, prompts, shared)


def _filled(sums: np.ndarray) -> np.ndarray:
    """Without the blocks that have no prompt: few prompts have fewer blocks."""
    kept: np.ndarray = sums[:, sums[2].any(1)]
    return kept


class ValueSums:
    """Of each teacher's trajectories how many there are, and the mean and spread of a metric."""

    def __init__(self, metric: Metric, n_teachers: int, bits: int):
        self.metric, self.bits = metric, bits
        # number, tokens, sum of values, and of their squared distances from the block's mean
        self.sums = np.zeros((4, 1 << bits, n_teachers))

    def add(self, rows: Rows) -> None:
        n_blocks, n_T = self.sums[0].shape
        values = self.metric.values(rows.columns, rows.prompt)
        flat = (rows.block >> (BLOCK_BITS - self.bits))[rows.prompt] * n_T + rows.teacher
        size = n_blocks * n_T
        n = np.bincount(flat, minlength=size)
        total = np.bincount(flat, values, size)
        apart = values - ratio(total, n)[flat]
        tokens = np.bincount(flat, rows.columns[self.metric.n_tokens], size)
        found = [n, tokens, total, np.bincount(flat, apart**2, size)]
        self.sums += np.stack(found).reshape(self.sums.shape)

    def exchange(self, gone: "ValueSums", come: "ValueSums") -> None:
        """Have the sums of some prompts in place of those that they had before."""
        left = self.sums - gone.sums
        left[3] -= _between(left, gone.sums)
        left[2:, left[0] == 0] = 0  # what rounding left
        self.sums = left + come.sums
        self.sums[3] += _between(left, come.sums)

    @property
    def n(self) -> np.ndarray:
        """Trajectories of each teacher, int [T]."""
        n: np.ndarray = self.sums[0].sum(0).astype(np.int64)
        return n

    def result(self) -> "Values":
        n, tokens, total, _ = self.sums.sum(1)
        mean = ratio(total, n)
        each = ratio(self.sums[2], self.sums[0])
        between = np.nansum(self.sums[0] * (each - mean) ** 2, axis=0)
        within = self.sums[3].sum(0).clip(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            std = np.where(n > 1, np.sqrt((within + between) / (n - 1)), np.nan)
        return Values(self.n, ratio(tokens, n), mean, std)


def _between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """By how much the squared distances of two groups together are more than those in each."""
    means = ratio(a[2], a[0]) - ratio(b[2], b[0])
    both = ratio(a[0] * b[0], a[0] + b[0])
    more: np.ndarray = np.nan_to_num(means**2 * both)
    return more


@dataclass(frozen=True)
class Values:
    """Of each teacher's trajectories, [T]."""

    n: np.ndarray
    mean_tokens: np.ndarray
    mean: np.ndarray  # of the metric
    std: np.ndarray  # NaN for one

    @classmethod
    def of(
        cls, values: np.ndarray, n_tokens: np.ndarray, teacher: np.ndarray, n_teachers: int
    ) -> "Values":
        """Of trajectories, [N] each."""
        own = [values[teacher == t] for t in range(n_teachers)]
        return cls(
            np.array([len(some) for some in own]),
            np.array([n_tokens[teacher == t].mean() for t in range(n_teachers)]),
            np.array([some.mean() for some in own]),
            np.array([some.std(ddof=1) if len(some) > 1 else np.nan for some in own]),
        )
