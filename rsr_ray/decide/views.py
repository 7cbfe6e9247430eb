"""views: the sums of rankings in the making: of all trajectories, or of a stratum, with and without
the degenerate ones.

Legend: N trajectories of a bucket, K teachers of a view, T teachers.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from rsr_ray.decide.buckets import BLOCK_BITS
from rsr_ray.decide.flags import FlagCounts, Flags
from rsr_ray.decide.matrices import Matrices
from rsr_ray.decide.sums import Rows, TermSums, Values, ValueSums
from rsr_ray.metrics import Metric

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
class Asked:
    """What a pass is made for."""

    metrics: list[Metric]  # whose terms are summed, the one to rank by first
    teachers: tuple[str, ...] = ()  # the only ones, if any are given
    sample_share: float = 1.0  # of the prompts that are in the sample

    @property
    def by(self) -> Metric:
        return self.metrics[0]


class View:
    """The sums of a ranking in the making."""

    def __init__(self, own: np.ndarray, asked: Asked, n_teachers: int, bits: int):
        self.by = asked.by.name
        self.own = own  # int [K]: teachers of the store that are in it
        self.place = np.full(n_teachers, -1)
        self.place[own] = np.arange(len(own))
        some_blocks = asked.sample_share * (1 << BLOCK_BITS)
        self.terms = {m.name: TermSums(m, len(own), bits, some_blocks) for m in asked.metrics}
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

    def exchange(self, gone: "View", come: "View") -> None:
        for name, sums in self.terms.items():
            sums.exchange(gone.terms[name], come.terms[name])
        self.values.exchange(gone.values, come.values)
        self.flags = self.flags.exchange(gone.flags, come.flags)

    def arrays(self) -> dict[str, np.ndarray]:
        """As they are kept."""
        found = {"own": self.own, "values": self.values.sums}
        found |= {f"flags/{name}": n for name, n in vars(self.flags).items()}
        for sums in self.terms.values():  # of one metric
            found |= {n: np.asarray(getattr(sums, n)) for n in TermSums.ADDED}
        return found

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.values.sums = arrays["values"].copy()
        self.flags = FlagCounts(**{n: arrays[f"flags/{n}"] for n in vars(self.flags)})
        for sums in self.terms.values():
            for name in TermSums.ADDED:
                some = arrays[name]
                setattr(sums, name, some.copy() if some.ndim else some.item())

    def told(self, names: list[str]) -> Told:
        matrices: dict[str, Matrices] = {name: sums.result() for name, sums in self.terms.items()}
        n_prompts = max(matrix.n_prompts for matrix in matrices.values())
        own = [names[t] for t in self.own]
        return Told(self.by, own, matrices, self.values.result(), self.flags, n_prompts)


class Views:
    """Those of all trajectories, or of a stratum: all, and without the degenerate ones."""

    def __init__(
        self,
        asked: Asked,
        teachers: tuple[np.ndarray, np.ndarray],  # that are in either
        n_teachers: int,
        bits: int,
    ):
        self._how = (asked, n_teachers, bits)
        self.every, self.others = (View(own, *self._how) for own in teachers)

    def add(self, rows: Rows, flags: Flags, keep: np.ndarray) -> None:
        self.every.add(rows, flags, keep)
        self.others.add(rows, flags, keep & (flags.degenerate != 1))

    def exchange(self, gone: "Views", come: "Views") -> None:
        self.every.exchange(gone.every, come.every)
        self.others.exchange(gone.others, come.others)

    def take_some(self, sample: "Views") -> None:
        """Who answered some prompts, from views of a sample."""
        for own, other in ((self.every, sample.every), (self.others, sample.others)):
            for name, sums in own.terms.items():
                sums.some = other.terms[name].some

    @property
    def left_out(self) -> np.ndarray:
        """Teachers most of whose trajectories are degenerate, int [K]."""
        n = self.every.values.n
        found: np.ndarray = self.every.own[(2 * self.every.flags.degenerate > n) & (n > 0)]
        return found

    @property
    def settled(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The teachers that have to be in them; None where they are those that were assumed."""
        there = self.every.own[self.every.values.n > 0]
        kept = np.setdiff1d(there, self.left_out)
        same = np.array_equal(there, self.every.own) and np.array_equal(kept, self.others.own)
        return None if same else (there, kept)

    def again(self) -> bool:
        """Whether other teachers have to be in them than was assumed: then they begin again."""
        settled = self.settled
        if settled:
            self.every, self.others = (View(own, *self._how) for own in settled)
        return settled is not None

    def told(self, names: list[str]) -> Told:
        told = self.every.told(names)
        left_out = [names[t] for t in self.left_out]
        if not self.every.flags.degenerate.any() or not len(self.others.own):
            return dataclasses.replace(told, left_out=left_out)
        return dataclasses.replace(told, left_out=left_out, without=self.others.told(names))
