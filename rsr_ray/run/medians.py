"""medians: of more values than should be in memory, and of what a night adds to them.

The median of a teacher's values is known without them as long as it lies among those that are kept:
the ones in the middle, with how many are below. Legend: T teachers.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

KEPT_SHARE = 0.05  # of a teacher's values, on either side of its median
KEPT_LEAST = 1_000  # on either side


class ValueFiles:
    """Values of each teacher, in files of a temporary folder. Use as a context."""

    def __enter__(self) -> "ValueFiles":
        self._folder = tempfile.TemporaryDirectory(prefix="rsr_ray-")
        return self

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()

    def add(self, teacher: np.ndarray, values: np.ndarray) -> None:
        values = values[np.argsort(teacher, kind="stable")]
        ends = np.cumsum(np.bincount(teacher))
        for t, (start, stop) in enumerate(zip([0, *ends], ends, strict=False)):
            if stop > start:
                with self._path(t).open("ab") as file:
                    values[start:stop].tofile(file)

    def of(self, t: int) -> np.ndarray:
        path = self._path(t)
        return np.fromfile(path) if path.exists() else np.empty(0)

    def median(self, t: int) -> float | None:
        values = self.of(t)
        return float(np.median(values)) if len(values) else None

    def _path(self, t: int) -> Path:
        return Path(self._folder.name) / str(t)


@dataclass(frozen=True)
class Middle:
    """The middle of a teacher's values: all of those from `low` to `high`."""

    n: int  # values
    n_below: int  # lower than `low`
    low: float  # -inf where all lower values are kept
    high: float
    values: np.ndarray  # float64 [K], sorted

    @classmethod
    def of(cls, values: np.ndarray) -> "Middle":
        values = np.sort(values)
        n, half = len(values), max(KEPT_LEAST, int(KEPT_SHARE * len(values)))
        first, last = max(0, n // 2 - half), min(n, n // 2 + half)
        low = float(values[first]) if first else -np.inf
        high = float(values[last - 1]) if last < n else np.inf
        some = values[(values >= low) & (values <= high)]
        return cls(n, int((values < low).sum()), low, high, some)

    def exchange(self, gone: np.ndarray, come: np.ndarray) -> "Middle | None":
        """With other values in place of some of them; None where their median is not known."""
        less, more = (np.sort(v[(v >= self.low) & (v <= self.high)]) for v in (gone, come))
        nth = np.arange(len(less)) - np.searchsorted(less, less)  # of equal ones
        left = np.delete(self.values, np.searchsorted(self.values, less) + nth)
        values = np.sort(np.concatenate([left, more]))
        n_below = self.n_below - int((gone < self.low).sum()) + int((come < self.low).sum())
        found = Middle(self.n - len(gone) + len(come), n_below, self.low, self.high, values)
        return found if found.is_known else None

    @property
    def _places(self) -> tuple[int, int]:
        """Of the two values in the middle, among those that are kept."""
        return (self.n - 1) // 2 - self.n_below, self.n // 2 - self.n_below

    @property
    def is_known(self) -> bool:
        first, last = self._places
        return not self.n or (first >= 0 and last < len(self.values))

    @property
    def median(self) -> float | None:
        return float(np.median(self.values[list(self._places)])) if self.n else None


def as_arrays(middles: list[Middle]) -> dict[str, np.ndarray]:
    """As they are kept."""
    numbers = [(m.n, m.n_below, len(m.values)) for m in middles]
    return {
        "numbers": np.array(numbers, np.int64).reshape(-1, 3),
        "ends": np.array([(m.low, m.high) for m in middles]).reshape(-1, 2),
        "values": np.concatenate([np.empty(0), *(m.values for m in middles)]),
    }


def of_arrays(arrays: Mapping[str, np.ndarray]) -> Iterator[Middle]:
    start = 0
    pairs = zip(arrays["numbers"].tolist(), arrays["ends"].tolist(), strict=True)
    for (n, n_below, n_kept), (low, high) in pairs:
        yield Middle(n, n_below, low, high, arrays["values"][start : start + n_kept])
        start += n_kept
