"""row_sums: what each score row adds to the teachers table: integers, some of them fixed point."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from rsr_ray.engine.sums import to_fixed

COLUMNS = [
    "teacher",
    "trajectory_id",
    "prompt_id",
    "source",
    "source_row",
    "n_tokens",
    "rank_sum",
    "surprisal_sum",
    "mean_rank",
    "mean_surprisal",
    "rsr",
    "reject_reason",
    "truncated",
    "content",
    "complete",
]
NUMBERS = {pa.int64(), pa.float64(), pa.bool_()}
# parts of their fixed point
AVERAGED = {
    "mean_rank": 2,
    "mean_surprisal": 2,
    "rsr": 4,
    "rsr_squared": 4,
    "surprisal_sum": 2,
}
COUNTED: tuple[str, ...] = (
    "n_tokens",
    "rank_sum",
    "is_scored",
    "is_rejected",
    "is_duplicate",
    "is_repeated_id",
    "is_complete",
    "is_incomplete",
    "is_truncated",
    "is_endless",
)
# A token that surprises by next to nothing can make rsr endless: its square has to fit into the
# fixed point.
MOST_RSR = 2.0**47


def summed(
    numbers: Mapping[str, np.ndarray], counts: np.ndarray, rejected: np.ndarray, same: np.ndarray
) -> dict[str, np.ndarray]:
    """What is summed of rows, int64 [n] each: of those that count, that were rejected, and that
    repeat others, bool [n] each. `numbers` have NaN for null.
    """
    is_endless = counts & ~(np.nan_to_num(numbers["rsr"], nan=0.0, posinf=np.inf) < MOST_RSR)
    flags = {
        "is_scored": counts,
        "is_rejected": rejected,
        "is_duplicate": same,
        "is_complete": counts & (numbers["complete"] == 1),
        "is_incomplete": counts & (numbers["complete"] == 0),
        "is_truncated": counts & (numbers["truncated"] == 1),
        "is_endless": is_endless,
    }
    out = {name: flag.astype(np.int64) for name, flag in flags.items()}
    for name in ("n_tokens", "rank_sum"):
        out[name] = np.where(counts, numbers[name], 0).astype(np.int64)
    return out | _in_fixed_point(numbers, counts, is_endless)


def _in_fixed_point(
    numbers: Mapping[str, np.ndarray], counts: np.ndarray, is_endless: np.ndarray
) -> dict[str, np.ndarray]:
    """The parts of each AVERAGED value, int64 [n]; 0 for rows that do not count, bool [n], and of
    rsr for those that are endless.
    """
    out = {}
    for name, n_parts in AVERAGED.items():
        values = numbers[name.removesuffix("_squared")]
        values = np.where(counts & ~is_endless if name.startswith("rsr") else counts, values, 0.0)
        values = values**2 if name == "rsr_squared" else values
        for n, part in enumerate(to_fixed(values, n_parts)):
            out[f"{name}_{n}"] = part
    return out
