"""reduce: scores -> one row a teacher. Sums are integers or fixed point, so no value depends on the order of addition."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ray.data.aggregate import Count, CountDistinct, Quantile, Sum, ValueCounter

from rsr_ray.schema import TEACHERS
from rsr_ray.store import Store
from rsr_ray.sums import FIXED_POINT_BITS, fixed_total, from_fixed, to_fixed

COLUMNS = ["teacher", "trajectory_id", "prompt_id", "source", "source_row", "n_tokens", "rank_sum", "surprisal_sum"]
COLUMNS += ["mean_rank", "mean_surprisal", "rsr", "reject_reason", "truncated", "content", "complete"]
AVERAGED = {"mean_rank": 2, "mean_surprisal": 2, "rsr": 4, "rsr_squared": 4, "surprisal_sum": 2}  # parts of their fixed point
COUNTED: tuple[str, ...] = ("n_tokens", "rank_sum", "is_scored", "is_rejected", "is_duplicate", "is_repeated_id", "is_complete", "is_incomplete")
COUNTED += ("is_truncated", "is_endless")
MOST_RSR = 2.0**47  # a token that surprises by next to nothing can make it endless: its square has to fit into the fixed point
PARTITION_ROWS = 50_000


def reduce_scores(store: Store, fingerprint: str, names: list[str], n_rows: int) -> pa.Table:
    """The TEACHERS table of the scores in units of a fingerprint, best first. `n_rows` only sizes the shuffle.

    A trajectory_id that a teacher has twice with the same content counts once, the first by source and row.
    """
    partitions = int(np.clip(n_rows // PARTITION_ROWS, 2, 200))
    rows = (
        store.read_scores(fingerprint, names, COLUMNS)
        .repartition(partitions, keys=["trajectory_id"])
        .map_batches(count_once, batch_size=None, batch_format="pyarrow")
    )
    parts = [f"{name}_{n}" for name, n_parts in AVERAGED.items() for n in range(n_parts)]
    totals = (
        rows.groupby("teacher", num_partitions=min(partitions, 8))
        .aggregate(
            Count(),
            CountDistinct("scored_prompt", alias_name="n_prompts"),
            Quantile("rsr", q=0.5, alias_name="rsr_median"),
            ValueCounter("reject_reason", alias_name="rejects"),
            *(Sum(name, alias_name=name) for name in (*COUNTED, *parts)),
        )
        .take_all()
    )
    return teacher_table([t for t in totals if t["teacher"] is not None], fingerprint)


def count_once(rows: pa.Table) -> pa.Table:
    """Marks further rows of a (teacher, trajectory_id, content) and adds the columns that are summed.

    Ray Data UDF over partitions: all rows of a trajectory_id are in one. Rows that do not count get null and 0.
    """
    rows = rows.append_column("rejected", pc.is_valid(rows["reject_reason"]))
    rows = rows.sort_by([(name, "ascending") for name in ("teacher", "trajectory_id", "content", "rejected", "source", "source_row")])
    same_id, same = (np.zeros(rows.num_rows, bool) for _ in range(2))
    same_id[1:] = _repeats(rows["teacher"]) & _repeats(rows["trajectory_id"])
    same[1:] = same_id[1:] & _repeats(rows["content"])
    rejected = rows["rejected"].to_numpy()
    counts = ~same & ~rejected
    complete = rows["complete"]
    is_endless = counts & ~(pc.fill_null(rows["rsr"], 0.0).to_numpy() < MOST_RSR)
    out = {
        "teacher": rows["teacher"],
        "reject_reason": pc.if_else(pa.array(~same), rows["reject_reason"], None),
        "scored_prompt": pc.if_else(pa.array(counts), rows["prompt_id"], None),
        "rsr": pc.if_else(pa.array(counts), rows["rsr"], None),
        "is_scored": counts.astype(np.int64),
        "is_rejected": (~same & rejected).astype(np.int64),
        "is_duplicate": same.astype(np.int64),
        "is_repeated_id": _repeated(same_id, counts),
        "is_complete": (counts & pc.fill_null(complete, False).to_numpy()).astype(np.int64),
        "is_incomplete": (counts & ~pc.fill_null(complete, True).to_numpy()).astype(np.int64),
        "is_truncated": (counts & pc.fill_null(rows["truncated"], False).to_numpy()).astype(np.int64),
        "is_endless": is_endless.astype(np.int64),
    }
    for name in ("n_tokens", "rank_sum"):
        out[name] = np.where(counts, pc.fill_null(rows[name], 0).to_numpy(), 0)
    for name, n_parts in AVERAGED.items():
        values = pc.fill_null(rows[name.removesuffix("_squared")], 0.0).to_numpy()
        values = np.where(counts & ~is_endless if name.startswith("rsr") else counts, values, 0.0)
        for n, part in enumerate(to_fixed(values**2 if name == "rsr_squared" else values, n_parts)):
            out[f"{name}_{n}"] = part
    return pa.table(out)


def _repeated(same_id: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """int64 [n]: 1 for rows that count behind another one of the same id that counts."""
    order = np.cumsum(counts)  # of rows that count, up to and with this one
    before = np.maximum.accumulate(np.where(same_id, 0, order - counts))  # of these, before its id's first row
    return (counts & (order - before > 1)).astype(np.int64)


def _repeats(column: pa.ChunkedArray) -> np.ndarray:
    """bool [n - 1]: where a value equals the one before it."""
    codes = pc.fill_null(column, "").combine_chunks().dictionary_encode().indices.to_numpy()
    return codes[1:] == codes[:-1]


def teacher_table(totals: list[dict], fingerprint: str) -> pa.Table:
    """Each teacher's sums as a row of TEACHERS: every ratio is taken here, once. Sorted by rsr, lowest first."""
    rows = []
    for t in totals:
        n = int(t["is_scored"])
        row = {
            "teacher": t["teacher"],
            "n_trajectories": n,
            "n_prompts": int(t["n_prompts"] or 0),
            "n_rejected": int(t["is_rejected"]),
            "rejects": {reason: int(n) for reason, n in sorted(zip(*t["rejects"].values(), strict=True), key=str) if reason is not None},
            "n_duplicates": int(t["is_duplicate"]),
            "n_repeated_ids": int(t["is_repeated_id"]),
            "n_complete": int(t["is_complete"]),
            "n_incomplete": int(t["is_incomplete"]),
            "n_truncated": int(t["is_truncated"]),
            "n_tokens": int(t["n_tokens"]),
            "fingerprint": fingerprint,
        }
        if n:
            parts = {name: [int(t[f"{name}_{part}"]) for part in range(n_parts)] for name, n_parts in AVERAGED.items()}
            total = {name: from_fixed(*sums) for name, sums in parts.items()}
            mean_rank, mean_surprisal = total["mean_rank"] / n, total["mean_surprisal"] / n
            rsr_mean, rsr_std = (None, None) if t["is_endless"] else (total["rsr"] / n, deviation(parts["rsr"], parts["rsr_squared"], n))
            row |= {
                "mean_tokens": int(t["n_tokens"]) / n,
                "mean_rank": mean_rank,
                "mean_surprisal": mean_surprisal,
                "rsr": mean_rank / mean_surprisal,
                "rsr_of_totals": int(t["rank_sum"]) / total["surprisal_sum"],
                "rsr_mean": rsr_mean,
                "rsr_median": float(t["rsr_median"]),
                "rsr_std": rsr_std,
            }
        rows.append(row)
    rows.sort(key=lambda row: (row.get("rsr", float("inf")), row["teacher"]))
    for place, row in enumerate(rows, 1):
        row["place"] = place if "rsr" in row else None
    return pa.Table.from_pylist(rows, schema=TEACHERS)


def deviation(total: list[int], of_squares: list[int], n: int) -> float | None:
    """Standard deviation of n values, from the parts of the sums of them and of their squares; in integers, so that nothing cancels."""
    if n < 2:
        return None
    squares, square = fixed_total(*of_squares) << FIXED_POINT_BITS, fixed_total(*total) ** 2
    return float(max(n * squares - square, 0) / (n * (n - 1) << 2 * FIXED_POINT_BITS)) ** 0.5
