"""measured: teachers' values on both sides, and how they vary with the prompts.

The same prompts are drawn for both sides, so what both share cancels. Legend: P prompts,
T teachers, B bootstrap draws; a leading 2 is side A, side B.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from rsr_ray.decide.inference import DRAWS, FEWEST, NOTHING, influence, interval, value_draws
from rsr_ray.decide.matrices import Matrices


@dataclass(frozen=True)
class Measured:
    """Values of teachers on both sides, and in draws of other prompts."""

    values: np.ndarray  # float64 [2, T]
    draws: np.ndarray  # float64 [2, B, T]; NaN where their noise is unknown
    n: np.ndarray  # int [T]: prompts
    low: np.ndarray  # float64 [T]: lower end of the interval of B - A; NaN where unknown
    high: np.ndarray  # float64 [T]: upper end

    def difference(self) -> tuple[np.ndarray, np.ndarray]:
        """B - A, [T], and in each draw, [B, T]."""
        least = NOTHING * np.abs(self.values).max(0)
        value = self.values[1] - self.values[0]
        draws = self.draws[1] - self.draws[0]
        value = np.where(np.abs(value) <= least, 0.0, value)
        draws = np.where(np.abs(draws) <= least, 0.0, draws)
        return value, draws


def measure_on_prompts(
    a: Matrices, b: Matrices, answered: np.ndarray, confidence: float, seed: int
) -> Measured:
    """Measure each teacher on its own prompts, `answered` bool [P, T], the same on both sides.

    Teachers with the same prompts are drawn together.
    """
    n_teachers = answered.shape[1]
    values = np.empty((2, n_teachers))
    draws = np.empty((2, DRAWS, n_teachers))
    low = np.empty(n_teachers)
    high = np.empty(n_teachers)
    for nth, group in enumerate(_group_by_prompts(answered)):
        k = len(group)
        rows = answered[:, group[0]]
        x = np.hstack([side.x[rows][:, group] for side in (a, b)])  # [P, 2k]: of A, then of B
        y = np.hstack([side.y[rows][:, group] for side in (a, b)])
        both, each = influence(x, y)  # [2k] and [P, 2k]
        values[:, group] = both.reshape(2, k)
        draws[:, :, group] = value_draws(x, y, seed + nth).reshape(DRAWS, 2, k).swapaxes(0, 1)
        between = interval(both[k:] - both[:k], each[:, k:] - each[:, :k], confidence, seed)
        low[group] = between.low
        high[group] = between.high
    return Measured(values, draws, answered.sum(0), low, high)


def _group_by_prompts(answered: np.ndarray) -> list[list[int]]:
    """Teachers in groups with the same prompts, `answered` bool [P, T]."""
    groups: dict[bytes, list[int]] = {}
    for t in range(answered.shape[1]):
        groups.setdefault(answered[:, t].tobytes(), []).append(t)
    return list(groups.values())


def measure_by_errors(
    values: np.ndarray, error: np.ndarray, n: np.ndarray, confidence: float, seed: int
) -> Measured:
    """Measure sides with independent standard errors over n prompts, all [2, T]."""
    rng = np.random.default_rng(seed)
    fewest = n.min(0)
    normal = rng.standard_normal((2, DRAWS, values.shape[1]))
    draws = values[:, None] + error[:, None] * normal
    critical = stats.t.ppf((1 + confidence) / 2, np.maximum(fewest - 1, 1))
    reach = np.where(fewest < FEWEST, math.nan, critical * np.hypot(*error))
    difference = values[1] - values[0]
    return Measured(values, draws, fewest, difference - reach, difference + reach)
