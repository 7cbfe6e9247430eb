"""A store of made-up scores, as large as is wanted:
python -m tests.big_store FOLDER 1000000 [--teachers 40] [--unit-rows 256]

Student `s`, teachers t00, t01 and so on, each with shards of its own, so that the answers to a
prompt lie far apart. Spreads over prompts and correlations are about those of real corpora; each
teacher has two answers to every tenth prompt. A hundredth of the rows is rejected, a two hundredth
repeats a row of another unit, a thousandth repeats one under another prompt_id; loops, cut-off
answers and rows without a value in the column `source` of --stratum are among them. The same
numbers always make the same store, but for the times of its files.
"""

import argparse
import hashlib
import multiprocessing
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.schema import SCORES, TEACHERS
from rsr_ray.store import seal
from rsr_ray.store.store import Store
from rsr_ray.store.units import unit_name

FINGERPRINT = "b" * 16
SHARD_ROWS = 16_384  # rows of a teacher in one shard
BLOCK = 10_000  # prompts that are drawn together
STRATA = ("math", "code", "chat", "science")


class Prompts(NamedTuple):
    """What answers to some prompts share, [P] each."""

    ids: pa.Array
    rank: np.ndarray  # log of how much harder than the mean
    surprisal: np.ndarray
    length: np.ndarray
    stratum: np.ndarray  # int: index into STRATA, or its length for none


def make_store(
    uri: str, n_rows: int, n_teachers: int = 40, *, unit_rows: int = 256, processes: int = 2
) -> Store:
    """A store of about so many rows, with its teachers table."""
    store = Store(uri, "s", None)
    per_teacher = -(-n_rows // n_teachers)
    tasks = [(store, t, per_teacher, unit_rows) for t in range(n_teachers)]
    if processes > 1:
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            told = pool.starmap(write_teacher, tasks, chunksize=1)
    else:
        told = [write_teacher(*task) for task in tasks]
    table = pa.Table.from_pylist(sorted(told, key=lambda row: row["rsr"]), schema=TEACHERS)
    store.write_teachers(table, store.counted(FINGERPRINT))
    return store


def write_teacher(store: Store, t: int, n_rows: int, unit_rows: int) -> dict[str, Any]:
    """Write the units of a teacher; its row of TEACHERS."""
    kept, counts = [], {"n_rejected": 0, "n_duplicates": 0}
    before = None
    for shard, start in enumerate(range(0, n_rows, SHARD_ROWS)):
        rows, is_fresh = shard_rows(t, start, min(start + SHARD_ROWS, n_rows), shard, before)
        before = rows
        scored = rows["reject_reason"].is_null().to_numpy()
        counts["n_rejected"] += int((is_fresh & ~scored).sum())
        counts["n_duplicates"] += int((~is_fresh).sum())
        numbers = ["n_tokens", "mean_rank", "mean_surprisal", "prompt_id"]
        kept.append(rows.select(numbers).filter(pa.array(is_fresh & scored)))
        write_units(store, rows, unit_rows)
    return counts | _totals(f"t{t:02d}", pa.concat_tables(kept))


def write_units(store: Store, rows: pa.Table, unit_rows: int) -> None:
    """Write a shard's rows."""
    key = hashlib.sha256(rows["source"][0].as_py().encode()).hexdigest()[:16]
    for first in range(0, len(rows), unit_rows):
        stop = min(first + unit_rows, len(rows))
        unit = {"key": key, "version": 12 * "a", "start": first, "stop": stop}
        name = unit_name(unit | {"last": stop == len(rows)})
        _write(store, name, rows.slice(first, unit_rows))


def _write(store: Store, name: str, rows: pa.Table) -> None:
    """As the store writes a unit, but without waiting for the disk."""
    path = Path(store.unit_uri(FINGERPRINT, name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(seal.write_parquet(rows, str(path.relative_to(store.uri))))


def _totals(teacher: str, rows: pa.Table) -> dict[str, Any]:
    n = len(rows)
    rank, surprisal = (pc.sum(rows[name]).as_py() / n for name in ("mean_rank", "mean_surprisal"))
    return {
        "teacher": teacher,
        "n_trajectories": n,
        "n_prompts": pc.count_distinct(rows["prompt_id"]).as_py(),
        "rejects": {},
        "n_truncated": 0,
        "n_tokens": pc.sum(rows["n_tokens"]).as_py(),
        "mean_rank": rank,
        "mean_surprisal": surprisal,
        "rsr": rank / surprisal,
        "fingerprint": FINGERPRINT,
    }


def shard_rows(
    t: int, start: int, stop: int, shard: int, before: pa.Table | None, fewest: int = 1000
) -> tuple[pa.Table, np.ndarray]:
    """SCORES rows of a teacher's answers [start, stop), and which of them repeat no other."""
    rng = np.random.default_rng([7, t, shard])
    n = stop - start
    nth = np.arange(start, stop)
    prompt = nth * 10 // 11
    rows = _ids(t, prompt, nth, n, rng) | _scores(t, prompt, n, rng)
    rows |= {"source": pa.repeat(f"/corpus/t{t:02d}/part-{shard:05d}.parquet", n)}
    rows |= {"source_row": pa.array(np.arange(n)), "fingerprint": pa.repeat(FINGERPRINT, n)}
    table = _rejected(rows, n, rng)
    is_fresh = np.ones(n, bool)
    if before is not None and n > fewest:  # the last rows repeat the shard before
        same = min(n // 200, len(before))
        table = _repeating(table, n - same, before.slice(0, same))
        is_fresh[n - same :] = False
    other = n // 1000  # of this shard, but as answers to other prompts
    if other:
        at = n - n // 200 - other
        repeated = table.slice(0, other)
        prompts = table["prompt_id"].slice(n // 2, other)
        place = repeated.schema.get_field_index("prompt_id")
        table = _repeating(table, at, repeated.set_column(place, "prompt_id", prompts))
        is_fresh[at : at + other] = False
    return table.combine_chunks(), is_fresh


def _repeating(table: pa.Table, at: int, rows: pa.Table) -> pa.Table:
    """The table with these rows, but their places, in place of its own."""
    places = ["source", "source_row"]
    own = table.slice(at, len(rows))
    for name in places:
        rows = rows.set_column(rows.schema.get_field_index(name), SCORES.field(name), own[name])
    return pa.concat_tables([table.slice(0, at), rows, table.slice(at + len(rows))])


def _ids(
    t: int, prompt: np.ndarray, nth: np.ndarray, n: int, rng: np.random.Generator
) -> dict[str, Any]:
    stratum = _of_prompts(prompt, "stratum")
    has = stratum < len(STRATA)
    values = pa.array(np.append(STRATA, "")).take(pa.array(stratum))
    ids = np.where(nth % 200 == 7, nth - 1, nth)  # some name two answers
    offsets = pa.array(np.arange(n + 1, dtype=np.int32))
    values = pc.if_else(pa.array(has), values, None)
    return {
        "trajectory_id": pc.binary_join_element_wise(
            f"t{t:02d}", pa.array(ids).cast(pa.string()), "-"
        ),
        "prompt_id": _of_prompts(prompt, "ids"),
        "teacher": pa.repeat(f"t{t:02d}", n),
        "sample": pa.array(np.append(0, 1 - np.minimum(1, np.diff(prompt)))),
        "content": hex_ids(rng, n),
        "strata": pa.MapArray.from_arrays(offsets, pa.repeat("source", n), values),
    }


def _scores(t: int, prompt: np.ndarray, n: int, rng: np.random.Generator) -> dict[str, Any]:
    """The sums of rows: teachers are a standard error of a few hundred prompts apart."""
    easy = rng.standard_normal(n)
    surprisal = np.exp(-0.7 + 0.02 * (t % 7) + _of_prompts(prompt, "surprisal") + 0.12 * easy)
    rank = np.exp(1.5 + 0.01 * t + _of_prompts(prompt, "rank") + 0.27 * easy)
    rank = 1 + rank * np.exp(0.08 * rng.standard_normal(n))
    length = np.exp(6.2 + 0.05 * (t % 5) + _of_prompts(prompt, "length"))
    n_tokens = np.maximum(8, length * np.exp(0.5 * rng.standard_normal(n))).astype(np.int64)
    loops = rng.random(n) < 0.01 + 0.03 * (t % 9 == 4)
    rank[loops] = 1 + 0.2 * (rank[loops] - 1)
    surprisal[loops] *= 0.4
    rank_sum, surprisal_sum = (
        np.maximum(n_tokens, rank * n_tokens).astype(np.int64),
        (surprisal * n_tokens),
    )
    columns = {"n_tokens": n_tokens, "rank_sum": rank_sum, "surprisal_sum": surprisal_sum}
    columns |= {"mean_rank": rank_sum / n_tokens, "mean_surprisal": surprisal_sum / n_tokens}
    columns |= {"entropy_sum": 0.9 * surprisal_sum, "mean_entropy": 0.9 * surprisal}
    columns |= {"rsr": rank_sum / surprisal_sum, "token_ratio_sum": 3.0 * rank_sum}
    for clip, share in (("_50", 0.8), ("_200", 1.1), ("_500", 1.2), ("_unclipped", 1.5)):
        columns[f"rank_sum{clip}"] = (share * rank_sum).astype(np.int64)
    for name, share in (("top30", 0.3), ("top20", 0.2), ("improbable", 0.1)):
        columns[f"n_{name}"] = np.ceil(share * n_tokens).astype(np.int64)
    columns |= {"token_ratio_top30_sum": 2.0 * rank_sum, "surprisal_top20_sum": 0.9 * surprisal_sum}
    columns |= {"brier_sum": 0.3 * surprisal_sum, "high_entropy_sum": 0.01 * surprisal_sum}
    columns |= {"n_within_sentences": n_tokens - 2, "n_prompt_tokens": n_tokens // 4}
    columns |= {"surprisal_within_sentences_sum": 0.95 * surprisal_sum}
    columns |= _guard(n_tokens, loops, rng)
    return {name: pa.array(values) for name, values in columns.items()}


def _guard(n_tokens: np.ndarray, loops: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    n = len(loops)
    repeats = np.where(loops, 0.5 + 0.5 * rng.random(n), 0.2 * rng.random(n) ** 2)
    cut = rng.random(n) < 0.02
    return {
        "repeated_ngrams": repeats,
        "longest_repeat": (repeats * n_tokens).astype(np.int64),
        "compression_ratio": 2 + 8 * repeats,
        "cut_off": cut,
        "other_script": 0.05 * rng.random(n) ** 4,
        "complete": ~cut,
        "truncated": np.zeros(n, bool),
    }


def _rejected(rows: dict[str, Any], n: int, rng: np.random.Generator) -> pa.Table:
    """The rows as SCORES, some of them rejected."""
    is_rejected = pa.array(rng.random(n) < 0.01)
    columns = []
    for field in SCORES:
        column = rows.get(field.name, pa.nulls(n, field.type))
        if field.name == "reject_reason":
            reason = "over_length" if rows["teacher"][0].as_py() < "t01" else "empty_response"
            column = pc.if_else(is_rejected, reason, None)
        elif field.name not in OF_REJECTS:
            column = pc.if_else(is_rejected, None, column)
        columns.append(column.cast(field.type))
    return pa.table(columns, schema=SCORES)


OF_REJECTS = {
    *("trajectory_id", "prompt_id", "teacher", "sample", "source", "source_row", "content"),
    *("complete", "strata", "segments", "turns", "fingerprint", "reject_detail"),
}


def _of_prompts(prompt: np.ndarray, name: str) -> Any:
    """What answers share, of sorted prompts [N], [N]."""
    first, last = prompt[0] // BLOCK, prompt[-1] // BLOCK
    blocks = [getattr(_block(b), name) for b in range(first, last + 1)]
    if name == "ids":
        return pa.concat_arrays(blocks).take(pa.array(prompt - first * BLOCK))
    return np.concatenate(blocks)[prompt - first * BLOCK]


@lru_cache(maxsize=16)
def _block(block: int) -> Prompts:
    rng = np.random.default_rng([8, block])
    hard = rng.standard_normal(BLOCK)
    return Prompts(
        hex_ids(rng, BLOCK),
        0.33 * hard,
        0.15 * hard + 0.05 * rng.standard_normal(BLOCK),
        0.6 * rng.standard_normal(BLOCK),
        rng.choice(len(STRATA) + 1, BLOCK, p=[0.5, 0.3, 0.1, 0.05, 0.05]),
    )


def hex_ids(rng: np.random.Generator, n: int) -> pa.Array:
    """Random ids of 16 hexadecimal digits."""
    offsets = np.arange(0, 16 * n + 1, 16, dtype=np.int32)
    digits = rng.bytes(8 * n).hex().encode()
    return pa.Array.from_buffers(
        pa.string(), n, [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(digits)]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("rows", type=int)
    parser.add_argument("--teachers", type=int, default=40)
    parser.add_argument("--unit-rows", type=int, default=256)
    given = parser.parse_args()
    begun = time.monotonic()
    made = make_store(given.folder, given.rows, given.teachers, unit_rows=given.unit_rows)
    n_units = len(made.units()[FINGERPRINT])
    print(f"{given.rows:,} rows, {n_units:,} units, {time.monotonic() - begun:.0f} s")
