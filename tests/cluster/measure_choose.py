"""Time and memory of a choice: python -m tests.cluster.measure_choose [100000] [further options of
choose]

Writes a corpus of ten teachers' short answers to so many prompts and a store with made-up scores of
them, 256 rows a unit, then chooses from it through the package in a process of its own. Prints
rows, seconds, the peak memory of that process (the driver) and of the largest process below it
(Ray's, shared memory included).
"""

import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rsr_ray.cli import main as command_line
from rsr_ray.files.objects import list_objects
from rsr_ray.schema import SCORES
from rsr_ray.store.store import Store
from rsr_ray.store.units import unit_name

from .conftest import descendants

TEACHERS, SHARDS, UNIT_ROWS = 10, 10, 256


def write(folder: Path, n_prompts: int, n_teachers: int = TEACHERS, by_length: float = 0.0) -> None:
    """A corpus and the store with its scores, under `folder`.

    Ranks fall with the length of a row to the power of `by_length`.
    """
    rng = np.random.default_rng(0)
    store = Store(str(folder / "store"), "s", None)
    for teacher in range(n_teachers):
        shards = folder / f"corpus/teacher=t{teacher}"
        shards.mkdir(parents=True)
        for part, prompts in enumerate(np.array_split(np.arange(n_prompts), SHARDS)):
            ids = [f"problem-{p}/{teacher}" for p in prompts]
            messages = [
                [
                    {"role": "user", "content": f"What is {p} + 1?"},
                    {"role": "assistant", "content": f"It is {p + 1}. " * 5},
                ]
                for p in prompts
            ]
            pq.write_table(
                pa.table(
                    {
                        "id": ids,
                        "prompt_id": [f"problem-{p}" for p in prompts],
                        "messages": messages,
                    }
                ),
                shards / f"{part}.parquet",
            )
    for obj in list_objects(str(folder / "corpus"), None, (".parquet",)):
        shard = pq.read_table(obj.uri, columns=["id", "prompt_id"], partitioning=None)
        n = shard.num_rows
        tokens = rng.integers(100, 20_000, n)
        columns = {
            "trajectory_id": shard["id"], "prompt_id": shard["prompt_id"],
            "teacher": pa.repeat(obj.uri.split("teacher=")[1].split("/")[0], n),
            "source": pa.repeat(obj.uri, n), "source_row": np.arange(n),
            "truncated": pa.repeat(False, n), "n_tokens": tokens,
            "n_prompt_tokens": np.full(n, 20),
        }  # fmt: skip
        whole = [name for name in SCORES.names if name.startswith("rank_sum")]
        ranks = (tokens / 100) ** -by_length
        columns |= {
            name: (tokens * rng.uniform(1, 9, n) * ranks).astype(np.int64) for name in whole
        }
        parts = (
            "surprisal_sum",
            "entropy_sum",
            "token_ratio_sum",
            "token_ratio_top30_sum",
            "surprisal_top20_sum",
            "brier_sum",
        )
        columns |= {name: tokens * rng.uniform(0.3, 2, n) for name in parts}
        columns |= {"n_top30": tokens // 3, "n_top20": tokens // 5, "n_improbable": tokens // 20}
        columns |= {
            "mean_rank": columns["rank_sum"] / tokens,
            "mean_surprisal": columns["surprisal_sum"] / tokens,
        }
        columns["rsr"] = columns["rank_sum"] / columns["surprisal_sum"]
        rows = pa.table(
            {
                f.name: pa.array(columns[f.name])
                if f.name in columns and not isinstance(columns[f.name], pa.ChunkedArray)
                else columns.get(f.name, pa.nulls(n, f.type))
                for f in SCORES
            }
        ).cast(SCORES)
        for start in range(0, n, UNIT_ROWS):
            stop = min(start + UNIT_ROWS, n)
            unit = {
                "key": obj.key,
                "version": obj.version,
                "start": start,
                "stop": stop,
                "last": stop == n,
            }
            path = Path(store.unit_uri("0123456789abcdef", unit_name(unit)))
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(rows.slice(start, stop - start), path, compression="zstd")


def measured(arguments: list[str]) -> None:
    """`rsr-ray choose` in this process, then its figures."""
    largest, over = 0, threading.Event()

    def watch() -> None:
        nonlocal largest
        while not over.wait(0.5):
            for pid in descendants(os.getpid()):
                try:
                    status = Path(f"/proc/{pid}/status").read_text()
                except OSError:
                    continue
                if "VmHWM:" in status and "\tray::" in status:
                    largest = max(largest, int(status.split("VmHWM:")[1].split()[0]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.monotonic()
    code = command_line(["choose", *arguments])
    seconds = time.monotonic() - begun
    over.set()
    watcher.join()
    driver = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        (
            f"{seconds:.0f} s, driver peak {driver / 1024:.0f} MiB, largest worker "
            f"{largest / 1024:.0f} MiB"
        ),
        flush=True,
    )
    sys.exit(code)


def main(n_prompts: int, options: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        begun = time.monotonic()
        write(Path(name), n_prompts)
        print(
            (
                f"{n_prompts * TEACHERS:,} rows over {n_prompts:,} prompts written in "
                f"{time.monotonic() - begun:.0f} s"
            ),
            flush=True,
        )
        command = [
            sys.executable,
            "-m",
            "tests.cluster.measure_choose",
            "--measured",
            "--store",
            f"{name}/store",
            "--student",
            "s",
        ]
        subprocess.run([*command, "--out", f"{name}/out", *options], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measured"]:
        measured(sys.argv[2:])
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 100_000, sys.argv[2:])
