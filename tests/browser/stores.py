"""Small stores as a run leaves them, written without one: scores, token scores, teachers, runs
and nights.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from rsr_ray.config.options import as_mapping
from rsr_ray.corpus.canonical import canonical
from rsr_ray.corpus.reading import Reading
from rsr_ray.files.objects import InputObject
from rsr_ray.schema import SCORES, TEACHERS, TOKENS
from rsr_ray.store.run_record import RunRecord
from rsr_ray.store.store import Store

FINGERPRINT = "f0"
UNITS = 2
MEAN_RANKS = (4.0, 5.0, 5.1, 7.0, 9.0)  # of the teachers by turns


def rows_of(
    teachers: list[str], n_prompts: int = 30, seed: int = 0, n_tokens: tuple[int, int] = (20, 60)
) -> pd.DataFrame:
    """An answer of each teacher to each prompt, about 2 nats a token; later ones have higher
    mean ranks.
    """
    rng = np.random.default_rng(seed)
    difficulty = rng.lognormal(0, 0.2, n_prompts)
    rows = []
    for t, teacher in enumerate(teachers):
        for prompt in range(n_prompts):
            n = int(rng.integers(*n_tokens))
            mean_rank = (MEAN_RANKS[t % 5] + t // 5) * difficulty[prompt] * rng.lognormal(0, 0.15)
            rows.append(
                (
                    f"t{t}-{prompt}",
                    f"p{prompt}",
                    teacher,
                    n,
                    round(n * mean_rank),
                    n * 2.0 * rng.lognormal(0, 0.1),
                )
            )
    return pd.DataFrame(
        rows,
        columns=["trajectory_id", "prompt_id", "teacher", "n_tokens", "rank_sum", "surprisal_sum"],
    )


def rejects_of(
    teacher: str | None,
    n: int,
    detail: str = "turn 2 has role 'critic'",
    reason: str = "unknown_role",
) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "trajectory_id": f"r{i}",
                "teacher": teacher,
                "reject_reason": reason,
                "reject_detail": detail,
            }
            for i in range(n)
        ],
        columns=["trajectory_id", "teacher", "reject_reason", "reject_detail"],
    )


def by_turns(at: np.ndarray) -> np.ndarray:
    return (at % 12).astype(float)


def write_store(
    folder: Path,
    rows: pd.DataFrame,
    *,
    student: str = "small-student",
    words: list[str] | None = None,
    surprisal: Callable[[np.ndarray], np.ndarray] = by_turns,
    n_nights: int = 0,
    corpus: Path | None = None,
    columns: tuple[str, ...] = (),
) -> Store:
    """A store of these rows in UNITS units; with `words`, token scores: these words by turns,
    and `surprisal` of their positions; with `corpus`, that JSONL file as what was scored, read
    with `--columns`.
    """
    reading = Reading(columns=as_mapping(columns))
    store = Store(str(folder), student, None)
    rows = rows.reset_index(drop=True).reindex(
        columns=list(dict.fromkeys([*rows.columns, "reject_reason", "reject_detail", "rank_sum"]))
    )
    rows["source"], rows["source_row"], rows["fingerprint"] = (
        "s3://bucket/part-0.jsonl",
        rows.index,
        FINGERPRINT,
    )
    if corpus:
        rows["source"], rows["content"] = str(corpus), write_corpus(corpus, rows, reading)
    records = [
        _with_means({name: value for name, value in row.items() if not pd.isna(value)})
        for row in rows.to_dict("records")
    ]
    size = -(-len(records) // UNITS)
    for start in range(0, len(records), size):
        some = records[start : start + size]
        stop = start + len(some)
        facts = {
            "key": ["0" * 16],
            "version": ["a" * 12 + reading.label],
            "start": [start],
            "stop": [stop],
            "last": [stop == len(records)],
        }
        unit = pa.table({**facts, "rows": pa.array([some], pa.list_(pa.struct(list(SCORES))))})
        (told,) = store.write_unit(unit, FINGERPRINT).to_pylist()
        if words:
            scored = [_tokens(row, words, surprisal) for row in some if "reject_reason" not in row]
            tokens = pa.Table.from_pylist(scored, schema=TOKENS)
            store.write_tokens(FINGERPRINT, told["file"], tokens, 100)
    table = _teachers(rows)
    store.write_teachers(
        pa.Table.from_pylist(table, schema=TEACHERS),
        [name for names in store.units().values() for name in names],
    )
    run = _run(store, rows)
    run["config"] |= {"columns": list(columns)}
    store.write_run(RunRecord.from_json(run))
    for night in range(n_nights):
        _write_night(store, f"2026-11-{night + 1:02d}", table, turned=night % 2 == 1)
    return store


def answer_of(row: Any) -> str:
    """What a teacher says to a prompt: a line for each ten tokens."""
    n = 1 if pd.isna(row.n_tokens) else int(row.n_tokens)
    steps = (f"Step {i}: {row.teacher} adds {i} and {i + 1}." for i in range(1, 2 + n // 10))
    return "<think>\n" + "\n".join(steps) + f"\n</think>\n\nSo the answer is **{n}**."


def write_corpus(path: Path, rows: pd.DataFrame, reading: Reading) -> list[str | None]:
    """A row of JSON for each row; returns what the store keeps of each: the hash of its content."""
    named = {"prompt": "prompt", "response": "response"} | dict(reading.columns)
    obj, kept = InputObject(uri=str(path), version="", size=0), []
    with path.open("w") as file:
        for n, row in enumerate(rows.itertuples()):
            said = {"prompt": f"What is task {row.prompt_id}?", "response": answer_of(row)}
            kept.append(canonical(said, obj, n, Reading(teacher=row.teacher))["content"])
            file.write(json.dumps({named[name]: text for name, text in said.items()}) + "\n")
    return kept


def _with_means(row: dict[str, Any]) -> dict[str, Any]:
    if "reject_reason" in row:
        return row
    n = row["n_tokens"] = int(row["n_tokens"])
    row["rank_sum"] = int(row["rank_sum"])
    means = {
        "mean_rank": row["rank_sum"] / n,
        "mean_surprisal": row["surprisal_sum"] / n,
        "rsr": row["rank_sum"] / row["surprisal_sum"],
    }
    return row | means


def _tokens(
    row: dict[str, Any], words: list[str], surprisal: Callable[[np.ndarray], np.ndarray]
) -> dict[str, Any]:
    n = row["n_tokens"]
    at = np.arange(n)
    numbers = {
        "rank": (at * at) % 150 + 1,
        "surprisal": surprisal(at),
        "entropy": np.full(n, 1.5),
        "square": np.full(n, 0.5),
    }
    kept = {name: row.get(name) for name in ("trajectory_id", "teacher", "source", "source_row")}
    return (
        kept
        | {"text": [words[i % len(words)] for i in range(n)]}
        | {name: values.tolist() for name, values in numbers.items()}
    )


def _teachers(rows: pd.DataFrame) -> list[dict[str, Any]]:
    found = []
    for teacher, mine in rows[rows.teacher.notna()].groupby("teacher", sort=True):
        scored, rejected = mine[mine.reject_reason.isna()], mine[mine.reject_reason.notna()]
        row = {
            "teacher": teacher,
            "n_trajectories": len(scored),
            "n_rejected": len(rejected),
            "fingerprint": FINGERPRINT,
            "n_duplicates": 0,
        }
        row |= {
            "rejects": rejected.reject_reason.value_counts().to_dict(),
            "n_truncated": 0,
            "n_prompts": 0,
            "n_tokens": 0,
        }
        if len(scored):
            x, y = (
                (scored.rank_sum / scored.n_tokens).mean(),
                (scored.surprisal_sum / scored.n_tokens).mean(),
            )
            row |= {
                "n_prompts": scored.prompt_id.nunique(),
                "n_tokens": int(scored.n_tokens.sum()),
                "mean_rank": x,
                "mean_surprisal": y,
                "rsr": x / y,
            }
        found.append(row)
    found.sort(key=lambda row: row.get("rsr", np.inf))
    return [row | {"place": n if "rsr" in row else None} for n, row in enumerate(found, 1)]


def _run(store: Store, rows: pd.DataFrame) -> dict[str, Any]:
    rejected = rows[rows.reject_reason.notna()]
    counts = rejected.reject_reason.value_counts().to_dict()
    equation = {
        "read": len(rows),
        "scored": len(rows) - len(rejected),
        "rejected": counts,
        "already_scored": 0,
        "holds": True,
    }
    tokens = int(rows.n_tokens.sum()) if "n_tokens" in rows else 0
    return {
        "run_id": "20261121-120000-abcdef",
        "fingerprint": FINGERPRINT,
        "config": {"student_name": store.student_name, "r_max": 100, "corpus": ["s3://bucket"]},
        "student": {"source": f"hub/{store.student_name}", "weights_hash": "w"},
        "versions": {"rsr_ray": "0.1.0", "ray": "2.60.0"},
        "equation": equation,
        "scored_tokens": tokens,
        "prompt_tokens": 10 * len(rows),
        "seconds": 12.5,
        "tokens_per_second": 1234.5,
    }


def _write_night(store: Store, night: str, table: list[dict[str, Any]], *, turned: bool) -> None:
    """A night's record; where `turned`, the first two have changed places."""
    from rsr_ray.decide.nights import History, Night

    places = [2, 1, *range(3, len(table) + 1)] if turned else range(1, len(table) + 1)
    teachers = [
        row | {"place": row["place"] and place} for row, place in zip(table, places, strict=True)
    ]
    moved = [
        {"teacher": row["teacher"], "from": 3 - row["place"], "to": row["place"]}
        for row in teachers[:2]
        if row["place"]
    ]
    changes = {
        "new_trajectories": {},
        "new_teachers": [],
        "gone_teachers": [],
        "moved": moved,
        "new_rejects": {},
    }
    equation = {"read": 9, "scored": 7, "rejected": {}, "already_scored": 2, "holds": True}
    entry = {
        "error": None,
        "run_id": "r",
        "fingerprint": FINGERPRINT,
        "equation": equation,
        "seconds": 1.0,
    }
    entry |= {"teachers": teachers, "changes": changes, "since": "2026-10-31"}
    record = {"night": night, "students": {store.student_name: entry}}
    History(store.uri, None).write(Night.from_json(record))
