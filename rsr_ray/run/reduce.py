"""reduce: scores -> one row a teacher.

Sums are integers or fixed point, so no value depends on the order of addition.
"""

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.engine.sums import FIXED_POINT_BITS, fixed_total, from_fixed, to_fixed
from rsr_ray.run.cluster import Cluster
from rsr_ray.schema import TEACHERS
from rsr_ray.store.store import Store
from rsr_ray.store.teacher_rows import TeacherRow

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
# Of equal rows the first counts, so one that is scored comes before those that are rejected.
SORTED_BY = ("teacher", "trajectory_id", "content", "rejected", "source", "source_row")
PARTITION_ROWS = 50_000
Totals = dict[str, Any]  # of a teacher: the sums of `count_once` columns, by name
# up to so many one process is done, in 0.1 GiB, before Ray's shuffle has started its workers
DRIVER_ROWS = 200_000


def reduce_scores(
    store: Store, fingerprint: str, names: list[str], n_rows: int, cluster: Cluster
) -> pa.Table:
    """The TEACHERS table of the scores in units of a fingerprint, best first.

    `n_rows` decides where they are added up: few of them here, more on the cluster; either way to
    the same bits. A trajectory_id that a teacher has twice with the same content counts once, the
    first by source and row.
    """
    if n_rows <= DRIVER_ROWS:
        rows = store.read_units(
            pa.table({"name": pa.array(names, pa.string())}), fingerprint, COLUMNS
        )
        return teacher_table(add_up(count_once(rows)), fingerprint)
    cluster.connect()
    return teacher_table(add_up_on_ray(store, fingerprint, names, n_rows), fingerprint)


def add_up(counted: pa.Table) -> list[Totals]:
    """The totals of each teacher of `count_once` rows."""
    parts = [f"{name}_{n}" for name, n_parts in AVERAGED.items() for n in range(n_parts)]
    sums = [(name, "sum") for name in (*COUNTED, *parts)]
    prompts = [("scored_prompt", "count_distinct", pc.CountOptions(mode="only_valid"))]
    totals = counted.group_by("teacher").aggregate(
        [*sums, *prompts, ("rsr", "list"), ("reject_reason", "list")]
    )
    found = []
    for t in totals.filter(pc.is_valid(totals["teacher"])).to_pylist():
        rsr = [value for value in t["rsr_list"] if value is not None]
        reasons = Counter(t["reject_reason_list"])
        found.append(
            {
                "teacher": t["teacher"],
                "n_prompts": t["scored_prompt_count_distinct"],
                "rsr_median": float(np.median(rsr)) if rsr else None,
                "rejects": {"values": [*reasons], "counts": [*reasons.values()]},
                **{name: t[f"{name}_sum"] for name, _ in sums},
            }
        )
    return found


def add_up_on_ray(store: Store, fingerprint: str, names: list[str], n_rows: int) -> list[Totals]:
    """`add_up` of more rows than one process should hold, by a shuffle of Ray Data's; `n_rows`
    only sizes it.
    """
    from ray.data.aggregate import Count, CountDistinct, Quantile, Sum, ValueCounter

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
    return [t for t in totals if t["teacher"] is not None]


def count_once(rows: pa.Table) -> pa.Table:
    """Marks further rows of a (teacher, trajectory_id, content) and adds the columns that are
    summed.

    Ray Data UDF over partitions: all rows of a trajectory_id are in one. Rows that do not count get
    null and 0.
    """
    rows = rows.append_column("rejected", pc.is_valid(rows["reject_reason"]))
    rows = rows.sort_by([(name, "ascending") for name in SORTED_BY])
    same_id = np.zeros(rows.num_rows, bool)
    same = np.zeros(rows.num_rows, bool)
    same_id[1:] = _repeats(rows["teacher"]) & _repeats(rows["trajectory_id"])
    same[1:] = same_id[1:] & _repeats(rows["content"])
    rejected = rows["rejected"].to_numpy()
    counts = ~same & ~rejected
    complete = pc.fill_null(rows["complete"], False).to_numpy()
    incomplete = ~pc.fill_null(rows["complete"], True).to_numpy()
    truncated = pc.fill_null(rows["truncated"], False).to_numpy()
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
        "is_complete": (counts & complete).astype(np.int64),
        "is_incomplete": (counts & incomplete).astype(np.int64),
        "is_truncated": (counts & truncated).astype(np.int64),
        "is_endless": is_endless.astype(np.int64),
    }
    for name in ("n_tokens", "rank_sum"):
        out[name] = np.where(counts, pc.fill_null(rows[name], 0).to_numpy(), 0)
    return pa.table(out | _in_fixed_point(rows, counts, is_endless))


def _in_fixed_point(
    rows: pa.Table, counts: np.ndarray, is_endless: np.ndarray
) -> dict[str, np.ndarray]:
    """The parts of each AVERAGED value, int64 [n]; 0 for rows that do not count, bool [n], and of
    rsr for those that are endless.
    """
    out = {}
    for name, n_parts in AVERAGED.items():
        values = pc.fill_null(rows[name.removesuffix("_squared")], 0.0).to_numpy()
        values = np.where(counts & ~is_endless if name.startswith("rsr") else counts, values, 0.0)
        values = values**2 if name == "rsr_squared" else values
        for n, part in enumerate(to_fixed(values, n_parts)):
            out[f"{name}_{n}"] = part
    return out


def _repeated(same_id: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """int64 [n]: 1 for rows that count behind another one of the same id that counts."""
    order = np.cumsum(counts)  # of rows that count, up to and with this one
    # of these, before its id's first row
    before = np.maximum.accumulate(np.where(same_id, 0, order - counts))
    return (counts & (order - before > 1)).astype(np.int64)


def _repeats(column: pa.ChunkedArray) -> np.ndarray:
    """bool [n - 1]: where a value equals the one before it."""
    codes = pc.fill_null(column, "").combine_chunks().dictionary_encode().indices.to_numpy()
    return codes[1:] == codes[:-1]


def teacher_table(totals: list[Totals], fingerprint: str) -> pa.Table:
    """Each teacher's sums as a row of TEACHERS: every ratio is taken here, once.

    Sorted by rsr, lowest first.
    """
    rows = [_teacher_row(t, fingerprint) for t in totals]
    rows.sort(key=lambda row: (float("inf") if row.rsr is None else row.rsr, row.teacher))
    placed = [
        row if row.rsr is None else dataclasses.replace(row, place=place)
        for place, row in enumerate(rows, 1)
    ]
    return pa.Table.from_pylist([vars(row) for row in placed], schema=TEACHERS)


def _teacher_row(totals: Totals, fingerprint: str) -> TeacherRow:
    """A teacher's row, without its place."""
    n = int(totals["is_scored"])
    row = TeacherRow(
        teacher=totals["teacher"],
        n_trajectories=n,
        n_prompts=int(totals["n_prompts"] or 0),
        n_rejected=int(totals["is_rejected"]),
        rejects={
            reason: int(n)
            for reason, n in sorted(zip(*totals["rejects"].values(), strict=True), key=str)
            if reason is not None
        },
        n_duplicates=int(totals["is_duplicate"]),
        n_repeated_ids=int(totals["is_repeated_id"]),
        n_complete=int(totals["is_complete"]),
        n_incomplete=int(totals["is_incomplete"]),
        n_truncated=int(totals["is_truncated"]),
        n_tokens=int(totals["n_tokens"]),
        fingerprint=fingerprint,
    )
    return _with_averages(row, totals) if n else row


def _with_averages(row: TeacherRow, totals: Totals) -> TeacherRow:
    """The row with what it says of the teacher's trajectories on the average."""
    n = row.n_trajectories
    parts = {
        name: [int(totals[f"{name}_{part}"]) for part in range(n_parts)]
        for name, n_parts in AVERAGED.items()
    }
    total = {name: from_fixed(*sums) for name, sums in parts.items()}
    mean_rank = total["mean_rank"] / n
    mean_surprisal = total["mean_surprisal"] / n
    is_endless = bool(totals["is_endless"])
    return dataclasses.replace(
        row,
        mean_tokens=row.n_tokens / n,
        mean_rank=mean_rank,
        mean_surprisal=mean_surprisal,
        rsr=mean_rank / mean_surprisal,
        rsr_of_totals=int(totals["rank_sum"]) / total["surprisal_sum"],
        rsr_mean=None if is_endless else total["rsr"] / n,
        rsr_median=float(totals["rsr_median"]),
        rsr_std=None if is_endless else deviation(parts["rsr"], parts["rsr_squared"], n),
    )


def deviation(total: list[int], of_squares: list[int], n: int) -> float | None:
    """Standard deviation of n values, from the parts of the sums of them and of their squares;
    in integers, so that nothing cancels.
    """
    if n < 2:
        return None
    squares, square = fixed_total(*of_squares) << FIXED_POINT_BITS, fixed_total(*total) ** 2
    return float(max(n * squares - square, 0) / (n * (n - 1) << 2 * FIXED_POINT_BITS)) ** 0.5
