"""reduce: scores -> one row a teacher.

Sums are integers or fixed point, so no value depends on the order of addition.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.decide.loading import MOST_ROWS
from rsr_ray.engine.sums import FIXED_POINT_BITS, fixed_total, from_fixed
from rsr_ray.guard import as_numbers
from rsr_ray.run.row_sums import AVERAGED, COLUMNS, COUNTED, NUMBERS, summed
from rsr_ray.run.summary import summed_up
from rsr_ray.run.table_sums import Totals, add_up_in_buckets
from rsr_ray.schema import SCORES, TEACHERS
from rsr_ray.store.store import Store
from rsr_ray.store.teacher_rows import TeacherRow

# Of equal rows the first counts, so one that is scored comes before those that are rejected.
SORTED_BY = ("teacher", "trajectory_id", "content", "rejected", "source", "source_row")
HERE_ROWS = 200_000  # of more, a bucket of prompts at a time is in memory


def reduce_scores(
    store: Store, fingerprint: str, units: Iterable[str] | Mapping[str, str]
) -> pa.Table:
    """The TEACHERS table of the scores in units of a fingerprint, best first.

    A trajectory_id that a teacher has twice with the same content counts once, the first by source
    and row. Any number of rows is added up to the same bits, in bounded memory. Of very many, given
    with the versions of their files, a summary is kept, and only what is new is read.
    """
    files = store.score_files(fingerprint, units)
    n_rows = sum(file.n_rows for file in files)
    if n_rows > MOST_ROWS and isinstance(units, Mapping):
        return teacher_table(summed_up(store, fingerprint, units), fingerprint)
    if n_rows <= HERE_ROWS:
        rows = pa.concat_tables(
            [
                SCORES.empty_table().select(COLUMNS),
                *(store.read_score_file(fingerprint, file, COLUMNS) for file in files),
            ]
        )
        return teacher_table(add_up(count_once(rows)), fingerprint)
    return teacher_table(add_up_in_buckets(store, fingerprint, files), fingerprint)


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


def count_once(rows: pa.Table) -> pa.Table:
    """Marks further rows of a (teacher, trajectory_id, content) and adds the columns that are
    summed: rows that do not count get null and 0.
    """
    rows = rows.append_column("rejected", pc.is_valid(rows["reject_reason"]))
    rows = rows.sort_by([(name, "ascending") for name in SORTED_BY])
    same_id = np.zeros(rows.num_rows, bool)
    same = np.zeros(rows.num_rows, bool)
    same_id[1:] = _repeats(rows["teacher"]) & _repeats(rows["trajectory_id"])
    same[1:] = same_id[1:] & _repeats(rows["content"])
    rejected = rows["rejected"].to_numpy()
    counts = ~same & ~rejected
    numbers = {
        name: as_numbers(rows[name]) for name in COLUMNS if SCORES.field(name).type in NUMBERS
    }
    sums = summed(numbers, counts, ~same & rejected, same)
    return pa.table(
        {
            "teacher": rows["teacher"],
            "reject_reason": pc.if_else(pa.array(~same), rows["reject_reason"], None),
            "scored_prompt": pc.if_else(pa.array(counts), rows["prompt_id"], None),
            "rsr": pc.if_else(pa.array(counts), rows["rsr"], None),
            "is_repeated_id": _repeated(same_id, counts),
            **sums,
        }
    )


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
