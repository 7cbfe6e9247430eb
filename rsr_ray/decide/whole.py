"""whole: very many score rows -> what is known of all of them, with a sample of prompts.

One pass over buckets of prompts (buckets.py) makes every ranking's sums: of all trajectories, of
those that are not degenerate, and both within each stratum. What needs single trajectories, such as
quartiles, is of the sample: all trajectories of the prompts with the smallest hashes.

Legend: N trajectories of a bucket, T teachers of the store, S strata.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from rsr_ray.decide.buckets import BLOCK_BITS, Bucket, Buckets
from rsr_ray.decide.ends import Ends
from rsr_ray.decide.flags import Flags
from rsr_ray.decide.matrices import ratio
from rsr_ray.decide.sums import Rows, bits_of
from rsr_ray.decide.views import CELLS, Asked, Told, View, Views
from rsr_ray.errors import UserError
from rsr_ray.metrics import RSR, Metric


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
    whole = Views(asked, (wanted, wanted), n_teachers, bits)
    of_strata = bits_of(n_teachers, CELLS // max(1, len(strata)))
    within = [Views(asked, (wanted, wanted), n_teachers, of_strata) for _ in strata]
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


class Sums:
    """The sums of a ranking by a metric that looks at no other answer, without strata: those of
    prompts with all their answers.
    """

    def __init__(
        self, asked: Asked, n_teachers: int, own: tuple[np.ndarray, np.ndarray] | None = None
    ):
        self.n_teachers = n_teachers
        every = np.arange(n_teachers)
        self.found = _Pass(asked, n_teachers, every)
        bits = bits_of(n_teachers, CELLS)
        self.views = Views(asked, own or (every, every), n_teachers, bits)

    def add(self, bucket: Bucket) -> None:
        """Rows that were scored, each once."""
        self.views.add(*self.found.look(bucket))

    def empty(self) -> "Sums":
        """Sums of nothing, of the same teachers."""
        own = self.views.every.own, self.views.others.own
        return Sums(self.found.asked, self.n_teachers, own)

    def exchange(self, gone: "Sums", come: "Sums") -> None:
        """Have the sums of some prompts in place of those that they had before."""
        self.found.exchange(gone.found, come.found)
        self.views.exchange(gone.views, come.views)

    def with_sample(self, sample: "Sums", ends: Ends) -> "Sums":
        """With what is kept of single prompts of a sample, and the ends of all rows."""
        self.found.sampled, self.found.ends = sample.found.sampled, ends
        self.views.take_some(sample.views)
        return self

    def whole(self, buckets: Buckets) -> Whole:
        return self.found.whole(buckets, self.views.told(buckets.names["teacher"]), {})

    def arrays(self) -> dict[str, np.ndarray]:
        """As they are kept, without samples and ends."""
        found = {f"found/{n}": np.asarray(getattr(self.found, n)) for n in _Pass.ADDED}
        for which in ("every", "others"):
            view: View = getattr(self.views, which)
            found |= {f"{which}/{name}": values for name, values in view.arrays().items()}
        return found

    @classmethod
    def of_arrays(cls, asked: Asked, n_teachers: int, arrays: Mapping[str, np.ndarray]) -> "Sums":
        sums = cls(asked, n_teachers, (arrays["every/own"], arrays["others/own"]))
        for name in _Pass.ADDED:
            setattr(sums.found, name, arrays[f"found/{name}"].copy())
        for which in ("every", "others"):
            own = {n.removeprefix(f"{which}/"): some for n, some in arrays.items()}
            getattr(sums.views, which).restore(own)
        return sums


def columns_of(metrics: list[Metric], more: Iterable[str]) -> list[str]:
    """The number columns that are read for metrics."""
    of_metrics = (column for metric in [*metrics, RSR] for column in metric.columns)
    return list(dict.fromkeys(["n_tokens", "surprisal_sum", *of_metrics, *more]))


def _numbers_of(names: list[str], teachers: Iterable[str]) -> np.ndarray:
    if unknown := [name for name in sorted({*teachers}) if name not in names]:
        raise UserError(
            f"--teachers {' '.join(unknown)}: not in the store; teachers: {', '.join(names)}"
        )
    return np.array([t for t, name in enumerate(names) if not teachers or name in teachers], int)


class _Pass:
    """What else is found in the buckets."""

    ADDED = ("every", "seen", "lacking", "n_without_value")

    def __init__(self, asked: Asked, n_teachers: int, wanted: np.ndarray):
        self.asked = asked
        self.is_wanted = np.isin(np.arange(n_teachers), wanted)
        self.bits = bits_of(n_teachers, CELLS)
        self.every = np.zeros((3, 1 << self.bits, n_teachers))  # x, y, n
        self.seen = np.zeros(n_teachers, np.int64)  # rows of each teacher
        self.lacking = np.zeros(len(asked.metrics), np.int64)  # rows that lack each metric
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
        self.seen += np.bincount(rows.teacher, minlength=len(self.seen))
        keep = self.is_wanted[rows.teacher]
        for m, metric in enumerate(self.asked.metrics):
            some = np.logical_or.reduce([np.isnan(columns[name]) for name in metric.columns])
            self.lacking[m] += int((keep & some).sum())
        keep[keep] &= self._valued(rows.where(keep))
        self.ends.add(bucket.where(keep).rows, rows.where(keep))
        if "stratum" in columns:
            self._count_several(prompt[keep], columns["stratum"][keep])
        some = keep & (block[prompt] < self.asked.sample_share * (1 << BLOCK_BITS))
        self.sampled.append(bucket.where(some))
        return rows, Flags.of(columns), keep

    def exchange(self, gone: "_Pass", come: "_Pass") -> None:
        for name in self.ADDED:
            setattr(self, name, getattr(self, name) - getattr(gone, name) + getattr(come, name))

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
        lacking = zip(self.asked.metrics, self.lacking.tolist(), strict=True)
        hashes = np.concatenate([bucket.prompt for bucket in self.sampled])
        prompts, prompt = np.unique(hashes, return_inverse=True)
        rows = np.concatenate([bucket.rows for bucket in self.sampled])
        x, y, n = self.every.sum(1)
        totals = zip(n.astype(int).tolist(), ratio(x, y).tolist(), strict=True)
        every = dict(zip(names["teacher"], totals, strict=True))
        return Whole(
            names=names,
            numbers=buckets.numbers,
            ranked=[names["teacher"][t] for t in np.flatnonzero(self.is_wanted & (self.seen > 0))],
            told=told,
            sample=Sample(prompts, prompt, rows),
            ends=self.ends.rows,
            ends_values=self.ends.values,
            lacking=frozenset(metric.name for metric, n in lacking if n),
            n_without_value=int(self.n_without_value),
            every={name: of_it for name, of_it in every.items() if of_it[0]},
            strata=strata,
            n_in_several=self.n_in_several,
        )
