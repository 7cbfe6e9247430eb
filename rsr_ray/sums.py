"""Sums over tokens and over trajectories. The scorer emits sums; a ratio is taken once, at the end."""

import numpy as np

FIXED_POINT_BITS = 32  # resolution 2.3e-10


def sum_by_row(rank: np.ndarray, surprisal: np.ndarray, entropy: np.ndarray, lengths: np.ndarray, r_max: int) -> dict[str, np.ndarray]:
    """Sums of the tokens of each row.

    `rank` int64 [N], `surprisal` and `entropy` float32 nats [N] hold the scored tokens of all rows one after the
    other, `lengths` int64 [R] how many each row has (all > 0, N in total). Returns int64 `n_tokens` and `rank_sum`
    (ranks clipped at r_max) and float64 `surprisal_sum` and `entropy_sum`, each [R]. A row's sums depend on its own
    tokens alone, added in their order.
    """
    starts = np.cumsum(lengths) - lengths
    return {
        "n_tokens": lengths.astype(np.int64),
        "rank_sum": np.add.reduceat(np.minimum(rank, r_max).astype(np.int64), starts),
        "surprisal_sum": np.add.reduceat(surprisal.astype(np.float64), starts),
        "entropy_sum": np.add.reduceat(entropy.astype(np.float64), starts),
    }


def to_fixed(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 [N], 0 <= value < 2**31, as whole and 2**-32 parts, int64 [N] each.

    Integer sums of the two are the same in whatever order they are taken, and fit int64 for 2**31 values.
    """
    fixed = np.rint(np.ldexp(values, FIXED_POINT_BITS)).astype(np.int64)
    return fixed >> FIXED_POINT_BITS, fixed & ((1 << FIXED_POINT_BITS) - 1)


def from_fixed(whole: int, part: int) -> float:
    """The float64 nearest to the total of two such sums."""
    return ((whole << FIXED_POINT_BITS) + part) / (1 << FIXED_POINT_BITS)
