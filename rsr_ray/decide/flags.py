"""flags: which trajectories are cut off or degenerate. Legend: N trajectories, T teachers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rsr_ray.guard import JUDGED_BY, cut_off, degenerate


@dataclass(frozen=True)
class Flags:
    """Which trajectories are cut off, and which are degenerate: 1, 0, or NaN if not known, [N]."""

    cut_off: np.ndarray
    degenerate: np.ndarray

    @classmethod
    def of(cls, columns: Mapping[str, np.ndarray]) -> "Flags":
        """Of trajectories' columns, [N]; nothing is known where the guard's were not read."""
        if not all(name in columns for name in JUDGED_BY):
            unknown = np.full(len(columns["n_tokens"]), math.nan)
            return cls(unknown, unknown)
        # Of rows without the guard's columns only those that are cut off would be told.
        is_guarded = ~np.isnan(columns["longest_repeat"])
        flags = np.where(is_guarded, degenerate(columns), math.nan)
        return cls(cut_off(columns), flags)


@dataclass(frozen=True)
class FlagCounts:
    """Of each teacher's trajectories, int64 [T]: of how many a flag is known, and how many have
    it.
    """

    cut_off_known: np.ndarray
    cut_off: np.ndarray
    known: np.ndarray
    degenerate: np.ndarray
    both: np.ndarray  # degenerate and cut off

    @classmethod
    def of(
        cls, cut_off: np.ndarray, degenerate: np.ndarray, teacher: np.ndarray, n_teachers: int
    ) -> "FlagCounts":
        """Of flags 1, 0 or NaN of trajectories, [N] each."""
        masks = (~np.isnan(cut_off), cut_off == 1, ~np.isnan(degenerate), degenerate == 1)
        some = (*masks, (cut_off == 1) & (degenerate == 1))
        return cls(*(np.bincount(teacher[mask], minlength=n_teachers) for mask in some))

    def __add__(self, other: "FlagCounts") -> "FlagCounts":
        both = zip(vars(self).values(), vars(other).values(), strict=True)
        return FlagCounts(*(a + b for a, b in both))

    def exchange(self, gone: "FlagCounts", come: "FlagCounts") -> "FlagCounts":
        """With the counts of some prompts in place of those that they had before."""
        three = zip(*(vars(one).values() for one in (self, gone, come)), strict=True)
        return FlagCounts(*(a - b + c for a, b, c in three))

    def shares(self, t: int) -> dict[str, float | None]:
        """Of a teacher's trajectories whose flags are known, the share that has each."""
        found = {"cut_off": (self.cut_off, self.cut_off_known)}
        found |= {"degenerate": (self.degenerate, self.known)}
        return {
            name: float(some[t] / told[t]) if told[t] else None
            for name, (some, told) in found.items()
        }
