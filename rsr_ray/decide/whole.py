"""whole: very many score rows -> what is known of all of them, with a sample of prompts.

One pass over buckets of prompts (buckets.py) makes every ranking's sums: of all trajectories, of
those that are not degenerate, and both within each stratum. What needs single trajectories, such as
quartiles, is of the sample: all trajectories of the prompts with the smallest hashes.

Legend: N trajectories of a bucket, T teachers of the store, S strata.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from rsr_ray.decide.buckets import BLOCK_BITS, Bucket, Buckets
from rsr_ray.decide.ends import Ends
from rsr_ray.decide.flags import FlagCounts, Flags
from rsr_ray.decide.matrices import Matrices, ratio
from rsr_ray.decide.sums import Rows, TermSums, Values, ValueSums, bits_of
from rsr_ray.errors import UserError
from rsr_ray.metrics import RSR, Metric

CELLS = 1 << 18  # of blocks and teachers, of all strata together: 4,096 blocks of up to 64 teachers


@dataclass(frozen=True)
class Told:
    """What is known of all trajectories of a ranking; arrays are of its teachers, [T]."""

    by: str  # the metric that it is by
    teachers: list[str]
    matrices: dict[str, Matrices]  # by the metric's name
    values: Values
    flags: FlagCounts
    n_prompts: int  # that any of them answered
    without: "Told | None" = None  # of those that are not degenerate, if some are
    left_out: list[str] = field(default_factory=list)  # of them: teachers that mostly are


@dataclass(frozen=True)
class Sample:
    """All trajectories of some prompts; arrays are [N]."""

    prompts: np.ndarray  # int64 [P], sorted: their hashes
    prompt: np.ndarray  # int: index into prompts
    rows: np.ndarray  # structured, as those of a Bucket


@dataclass(frozen=True)
class Whole:
    """What a pass over all score rows tells."""

    names: dict[str, list[str]]  # of teachers, sources, units and strata, by number
    numbers: list[str]  # columns of the sample's rows that are numbers of trajectories
    ranked: list[str]  # the teachers asked for
    told: Told
    sample: Sample
    ends: np.ndarray  # structured: the best and the worst rows of each teacher
    ends_values: np.ndarray  # of the metric that they are by
    lacking: frozenset[str]  # metrics that not all rows have
    n_without_value: int  # trajectories without a value of the metric
    every: dict[str, tuple[int, float]]  # of each teacher all trajectories, and their rsr
    strata: dict[str, Told]
    n_in_several: int  # prompts with answers in several strata


@dataclass(frozen=True)
class Asked:
    """What a pass is made for."""

    metrics: list[Metric]  # whose terms are summed, the one to rank by first
    teachers: tuple[str, ...] = ()  # the only ones, if any are given
    sample_share: float = 1.0  # of the prompts that are in the sample

    @property
    def by(self) -> Metric:
        return self.metrics[0]


class _View:
    """The sums of a ranking in the making."""

    def __init__(self, own: np.ndarray, asked: Asked, n_teachers: int, bits: int):
        self.by = asked.by.name
        self.own = own  # int [K]: teachers of the store that are in it
        self.place = np.full(n_teachers, -1)
        self.place[own] = np.arange(len(own))
        self.terms = {m.name: TermSums(m, len(own), bits) for m in asked.metrics}
        self.values = ValueSums(asked.by, len(own), bits)
        none = np.zeros(len(own), np.int64)
        self.flags = FlagCounts(none, none, none, none, none)

    def add(self, rows: Rows, flags: Flags, keep: np.ndarray) -> None:
        place = self.place[rows.teacher]
        keep = keep & (place >= 0)
        some = rows.where(keep, place)
        for sums in self.terms.values():
            sums.add(some)
        self.values.add(some)
        self.flags += FlagCounts.of(
            flags.cut_off[keep], flags.degenerate[keep], some.teacher, len(self.own)
        )

    def told(self, names: list[str]) -> Told:
        matrices: dict[str, Matrices] = {name: sums.result() for name, sums in self.terms.items()}
        n_prompts = max(matrix.n_prompts for matrix in matrices.values())
        own = [names[t] for t in self.own]
        return Told(self.by, own, matrices, self.values.result(), self.flags, n_prompts)


class _Views:
    """Those of all trajectories, or of a stratum: all, and without the degenerate ones."""

    def __init__(self, asked: Asked, teachers: np.ndarray, n_teachers: int, bits: int):
        self._how = (asked, n_teachers, bits)
        self.every, self.others = (_View(teachers, *self._how) for _ in range(2))
        self.left_out = teachers[:0]

    def add(self, rows: Rows, flags: Flags, keep: np.ndarray) -> None:
        self.every.add(rows, flags, keep)
        self.others.add(rows, flags, keep & (flags.degenerate != 1))

    def again(self) -> bool:
        """Whether other teachers have to be in them than was assumed: then they begin again."""
        n, flags = self.every.values.n, self.every.flags
        there = self.every.own[n > 0]
        mostly = 2 * flags.degenerate > n
        self.left_out = self.every.own[mostly & (n > 0)]
        kept = np.setdiff1d(there, self.left_out)
        same = np.array_equal(there, self.every.own) and np.array_equal(kept, self.others.own)
        if not same:
            self.every, self.others = _View(there, *self._how), _View(kept, *self._how)
        return not same

    def told(self, names: list[str]) -> Told:
        told = self.every.told(names)
        left_out = [names[t] for t in self.left_out]
        if not self.every.flags.degenerate.any() or not len(self.others.own):
            return dataclasses.replace(told, left_out=left_out)
        return dataclasses.replace(told, left_out=left_out, without=self.others.told(names))


def sum_up(buckets: Buckets, asked: Asked) -> Whole:
    """What the rows of filled buckets come to.

    Raises UserError for teachers that are not there, where not all rows have what the metric to
    rank by is made of, and where none has a value of it.
    """
    names = buckets.names
    n_teachers = len(names["teacher"])
    wanted = _numbers_of(names["teacher"], asked.teachers)
    strata = names.get("stratum", [])
    bits = bits_of(n_teachers, CELLS)
    whole = _Views(asked, wanted, n_teachers, bits)
    of_strata = bits_of(n_teachers, CELLS // max(1, len(strata)))
    within = [_Views(asked, wanted, n_teachers, of_strata) for _ in strata]
    while True:
        found = _Pass(asked, n_teachers, wanted)
        for bucket in (one.each_once() for one in buckets):
            rows, flags, keep = found.look(bucket)
            whole.add(rows, flags, keep)
            for s, views in enumerate(within):
                views.add(rows, flags, keep & (bucket.rows["stratum"] == s))
        again = [views.again() for views in (whole, *within)]
        if not any(again) or not len(whole.every.own):
            break
    told = {
        name: views.told(names["teacher"])
        for name, views in zip(strata, within, strict=True)
        if len(views.every.own)
    }
    return found.whole(buckets, whole.told(names["teacher"]), told)


def _numbers_of(names: list[str], teachers: Iterable[str]) -> np.ndarray:
    if unknown := [name for name in sorted({*teachers}) if name not in names]:
        raise UserError(
            f"--teachers {' '.join(unknown)}: not in the store; teachers: {', '.join(names)}"
        )
    return np.array([t for t, name in enumerate(names) if not teachers or name in teachers], int)


class _Pass:
    """What else is found in the buckets."""

    def __init__(self, asked: Asked, n_teachers: int, wanted: np.ndarray):
        self.asked = asked
        self.is_wanted = np.isin(np.arange(n_teachers), wanted)
        self.bits = bits_of(n_teachers, CELLS)
        self.every = np.zeros((3, 1 << self.bits, n_teachers))  # x, y, n
        self.lacking: set[str] = set()
        self.n_without_value = self.n_in_several = 0
        self.ends = Ends(asked.by)
        self.sampled: list[Bucket] = []

    def look(self, bucket: Bucket) -> tuple[Rows, Flags, np.ndarray]:
        """The rows of a bucket, and which of them are ranked, bool [N]."""
        prompts, prompt = np.unique(bucket.prompt, return_inverse=True)
        block = bucket.block[np.searchsorted(bucket.prompt, prompts)]
        columns = {name: np.ascontiguousarray(c) for name, c in bucket.columns().items()}
        rows = Rows(prompt, block, columns["teacher"], columns)
        self._count_every(rows)
        keep = self.is_wanted[rows.teacher]
        for metric in self.asked.metrics:
            if any(np.isnan(columns[name][keep]).any() for name in metric.columns):
                self.lacking.add(metric.name)
        keep[keep] &= self._valued(rows.where(keep))
        self.ends.add(bucket.where(keep).rows, rows.where(keep))
        if "stratum" in columns:
            self._count_several(prompt[keep], columns["stratum"][keep])
        some = keep & (block[prompt] < self.asked.sample_share * (1 << BLOCK_BITS))
        self.sampled.append(bucket.where(some))
        return rows, Flags.of(columns), keep

    def _count_every(self, rows: Rows) -> None:
        with np.errstate(divide="ignore", invalid="ignore"):
            x, y = RSR.terms(rows.columns)
        there = np.isfinite(x) & np.isfinite(y)
        block = rows.block >> (BLOCK_BITS - self.bits)
        flat = (block[rows.prompt] * self.every.shape[2] + rows.teacher)[there]
        for total, values in zip(self.every, (x[there], y[there], None), strict=True):
            total += np.bincount(flat, values, total.size).reshape(total.shape)

    def _valued(self, rows: Rows) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            has: np.ndarray = np.isfinite(self.asked.by.values(rows.columns, rows.prompt))
        self.n_without_value += int((~has).sum())
        return has

    def _count_several(self, prompt: np.ndarray, stratum: np.ndarray) -> None:
        pairs = np.unique(np.stack([prompt, stratum])[:, stratum >= 0], axis=1)
        _, n = np.unique(pairs[0], return_counts=True)
        self.n_in_several += int((n > 1).sum())

    def whole(self, buckets: Buckets, told: Told, strata: dict[str, Told]) -> Whole:
        names = buckets.names
        hashes = np.concatenate([bucket.prompt for bucket in self.sampled])
        prompts, prompt = np.unique(hashes, return_inverse=True)
        rows = np.concatenate([bucket.rows for bucket in self.sampled])
        x, y, n = self.every.sum(1)
        totals = zip(n.astype(int).tolist(), ratio(x, y).tolist(), strict=True)
        return Whole(
            names=names,
            numbers=buckets.numbers,
            ranked=[names["teacher"][t] for t in np.flatnonzero(self.is_wanted)],
            told=told,
            sample=Sample(prompts, prompt, rows),
            ends=self.ends.rows,
            ends_values=self.ends.values,
            lacking=frozenset(self.lacking),
            n_without_value=self.n_without_value,
            every=dict(zip(names["teacher"], totals, strict=True)),
            strata=strata,
            n_in_several=self.n_in_several,
        )
