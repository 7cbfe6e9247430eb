"""doctor's estimate against the run that follows: python -m tests.cluster.measure_estimates

Six corpora of different sizes, lengths and formats; those of real trajectories need the data beside
the checkout. For each, doctor and then score run as processes of their own, and a line says what
was estimated, the time that the run took, and the factor between the two.
"""

import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rsr_ray.demo.corpus import TEACHERS, make_problem, prompt
from rsr_ray.store.store import Store
from tests.conftest import DEMO_STUDENT, SHARED

TINY = SHARED / "students" / "tiny-qwen3"


def short_rows(rng: random.Random, n: int) -> list[dict]:
    """A sum and its answer each, some 40 tokens."""
    problems = [make_problem(rng) for _ in range(n)]
    return [
        {"id": str(i), "prompt": prompt(one), "response": TEACHERS["terse-7b"](one, rng)}
        for i, one in enumerate(problems)
    ]


def uneven_rows(rng: random.Random, n: int) -> list[dict]:
    """As many sums as a log-normal number says: a few rows are most of the tokens."""
    rows = []
    for i in range(n):
        parts = short_rows(rng, 1 + int(rng.lognormvariate(1.0, 1.0)))
        text = "\n".join(part["response"] for part in parts)
        rows.append({"id": str(i), "prompt": parts[0]["prompt"], "response": text})
    return rows


def write_packed(folder: Path, rows: list[dict]) -> None:
    for shard in range(8):
        with gzip.open(folder / f"{shard}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows[shard::8])


def write_parquet(folder: Path, rows: list[dict]) -> None:
    for shard in range(4):
        table = pa.Table.from_pylist(rows[shard::4])
        pq.write_table(table, folder / f"{shard}.parquet", row_group_size=200)


def repeated(folder: Path, times: int) -> None:
    """The real answers to mathematics, as so many shards with other ids."""
    for path in sorted((SHARED / "corpus" / "math").rglob("*.parquet")):
        rows = pq.read_table(path).to_pylist()
        for n in range(times):
            shard = folder / path.parent.name / f"{path.stem}-{n}.jsonl"
            shard.parent.mkdir(exist_ok=True)
            shard.write_text(
                "".join(json.dumps(row | {"id": f"{n}/{row['id']}"}) + "\n" for row in rows)
            )


def corpora(folder: Path) -> dict[str, tuple[Path, Path, list[str]]]:
    """Corpus, student and options of each."""
    rng = random.Random(0)
    made = {name: folder / name for name in ("short", "packed", "uneven", "repeated")}
    for path in made.values():
        path.mkdir()
    write_parquet(made["short"], short_rows(rng, 1000))
    write_packed(made["packed"], short_rows(rng, 20_000))
    write_parquet(made["uneven"], uneven_rows(rng, 3000))
    repeated(made["repeated"], 4)
    teacher = ["--teacher", "t"]
    return {
        "1,000 short rows, parquet": (made["short"], DEMO_STUDENT, teacher),
        "20,000 short rows, jsonl.gz": (made["packed"], DEMO_STUDENT, teacher),
        "3,000 rows of uneven lengths, parquet": (made["uneven"], TINY, teacher),
        "math, parquet and jsonl": (SHARED / "corpus" / "math", TINY, []),
        "math four times over, two replicas": (made["repeated"], TINY, ["--replicas", "2"]),
        "puzzles, up to 32,000 tokens": (SHARED / "corpus" / "puzzles", TINY, []),
    }


def run(*command: object) -> str:
    whole = [sys.executable, "-m", "rsr_ray", *map(str, command)]
    done = subprocess.run(whole, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def main(wanted: list[str]) -> None:
    factors = []
    with tempfile.TemporaryDirectory() as name:
        for title, (corpus, student, more) in corpora(Path(name)).items():
            if wanted and not any(word in title for word in wanted):
                continue
            store = Path(name) / f"store {title}"
            options = ["--corpus", corpus, "--student", student, "--store", store, *more]
            options += ["--max-rejects", "0.5", "--over-length", "truncate"]
            begun = time.monotonic()
            said = json.loads(run("doctor", *options, "--json"))["estimate"]
            looked = time.monotonic() - begun
            begun = time.monotonic()
            run("score", *options)
            took = time.monotonic() - begun
            record = Store(str(store), student.name, None).last_run()
            assert record is not None
            low, middle, high = (3600 * said[key] for key in ("hours_low", "hours", "hours_high"))
            tokens = record.scored_tokens + record.prompt_tokens
            factors.append(max(middle / took, took / middle))
            print(
                f"{title:40}  doctor {looked:5.1f} s  estimate {middle:6.1f} s"
                f" ({low:.1f} to {high:.1f})  run {took:6.1f} s  factor {factors[-1]:.2f}"
                f"  tokens {said['tokens']:,.0f} and {tokens:,}"
                f"  speed {said['tokens_per_second']:,.0f}, {record.tokens_per_second:,.0f}",
                flush=True,
            )
    print(f"largest factor {np.max(factors):.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
