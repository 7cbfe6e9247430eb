"""reduce: scores -> one row a teacher.

Sums are integers or fixed point, so no value depends on the order of addition.
"""

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.decide.buckets import Buckets
from rsr_ray.engine.sums import FIXED_POINT_BITS, fixed_total, from_fixed, to_fixed
from rsr_ray.guard import as_numbers
from rsr_ray.schema import SCORES, TEACHERS
from rsr_ray.store.score_files import ScoreFile
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
# Of equal rows the first counts, so one that is scored comes before those that are rejected.
SORTED_BY = ("teacher", "trajectory_id", "content", "rejected", "source", "source_row")
Totals = dict[str, Any]  # of a teacher: the sums of `count_once` columns, by name
HERE_ROWS = 200_000  # of more, a bucket of prompts at a time is in memory


def reduce_scores(store: Store, fingerprint: str, names: Iterable[str]) -> pa.Table:
    """The TEACHERS table of the scores in units of a fingerprint, best first.

    A trajectory_id that a teacher has twice with the same content counts once, the first by source
    and row. Any number of rows is added up to the same bits, in bounded memory.
    """
    files = store.score_files(fingerprint, names)
    if sum(file.n_rows for file in files) <= HERE_ROWS:
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


def add_up_in_buckets(store: Store, fingerprint: str, files: list[ScoreFile]) -> list[Totals]:
    """`add_up` of more rows than should be in memory at once."""
    numbers = [name for name in COLUMNS if SCORES.field(name).type in NUMBERS]
    numbers.remove("source_row")
    with Buckets(store, fingerprint, numbers, rejects=True) as buckets, Kept() as kept:
        buckets.fill(files)
        names, reasons = buckets.names["teacher"], buckets.names["reject_reason"]
        found: list[Totals] = [{} for _ in names]
        totals: dict[str, np.ndarray] = {}
        rejects = np.zeros((len(names), len(reasons)), np.int64)
        for bucket in buckets:
            bucket = bucket.where(bucket.rows["teacher"] >= 0)
            rows, teacher = bucket.columns(), bucket.rows["teacher"]
            sums = _of_bucket(rows, bucket.is_first)
            for name, values in sums.items():
                total = totals.setdefault(name, np.zeros(len(names), np.int64))
                np.add.at(total, teacher, values)
            is_reject = bucket.is_first & (rows["reject_reason"] >= 0)
            np.add.at(rejects, (teacher[is_reject], rows["reject_reason"][is_reject]), 1)
            counts = sums["is_scored"] == 1
            pairs = np.unique(np.stack([bucket.prompt, teacher])[:, counts], axis=1)
            n_prompts = totals.setdefault("n_prompts", np.zeros(len(names), np.int64))
            n_prompts += np.bincount(pairs[1], minlength=len(names))
            kept.add(teacher[counts], rows["rsr"][counts])
        totals["is_repeated_id"] = buckets.n_repeated_ids
        for t, name in enumerate(names):
            found[t] = {"teacher": name, "rsr_median": kept.median(t)}
            of_teacher = zip(reasons, rejects[t].tolist(), strict=True)
            counted = {reason: n for reason, n in of_teacher if n}
            found[t] |= {"rejects": {"values": [*counted], "counts": [*counted.values()]}}
            found[t] |= {name: int(total[t]) for name, total in totals.items()}
    return found


class Kept:
    """Values of each teacher, in files of a temporary folder."""

    def __enter__(self) -> "Kept":
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

    def median(self, t: int) -> float | None:
        path = self._path(t)
        return float(np.median(np.fromfile(path))) if path.exists() else None

    def _path(self, t: int) -> Path:
        return Path(self._folder.name) / str(t)


def _of_bucket(rows: dict[str, np.ndarray], is_first: np.ndarray) -> dict[str, np.ndarray]:
    """What is summed of the rows of a bucket, int64 [n] each."""
    rejected = rows["reject_reason"] >= 0
    return _summed(rows, is_first & ~rejected, is_first & rejected, ~is_first)


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
    summed = _summed(numbers, counts, ~same & rejected, same)
    return pa.table(
        {
            "teacher": rows["teacher"],
            "reject_reason": pc.if_else(pa.array(~same), rows["reject_reason"], None),
            "scored_prompt": pc.if_else(pa.array(counts), rows["prompt_id"], None),
            "rsr": pc.if_else(pa.array(counts), rows["rsr"], None),
            "is_repeated_id": _repeated(same_id, counts),
            **summed,
        }
    )


def _summed(
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
