"""Time and memory of a choice: python -m tests.cluster.measure_choose [100000] [--unit-rows 256]
[--folder FOLDER] [further options of choose]

Writes a corpus of ten teachers' short answers to so many prompts and a store with made-up scores of
them, then chooses from it through the package in a process of its own. Prints rows, seconds,
seconds of processors of all processes, and the peak memory of that process (the driver) and of the
largest process below it (Ray's, shared memory included). What is written goes to FOLDER, and is
used again if it is there.
"""

import argparse
import contextlib
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rsr_ray.cli import main as command_line
from rsr_ray.files.objects import InputObject, list_objects
from rsr_ray.schema import SCORES
from rsr_ray.store.store import Store
from rsr_ray.store.units import unit_name

from .conftest import descendants

TEACHERS, SHARDS, UNIT_ROWS = 10, 10, 256
FINGERPRINT = "0123456789abcdef"
TICKS = os.sysconf("SC_CLK_TCK")


def write(
    folder: Path,
    n_prompts: int,
    n_teachers: int = TEACHERS,
    by_length: float = 0.0,
    unit_rows: int = UNIT_ROWS,
) -> None:
    """A corpus and the store with its scores, under `folder`.

    Ranks fall with the length of a row to the power of `by_length`.
    """
    parts = np.array_split(np.arange(n_prompts), SHARDS)
    shards = [(folder, t, n, part) for t in range(n_teachers) for n, part in enumerate(parts)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(_write_shard, shards)
        objects = list_objects(str(folder / "corpus"), None, (".parquet",))
        pool.starmap(_write_scores, [(folder, obj, by_length, unit_rows) for obj in objects])


def _write_shard(folder: Path, teacher: int, part: int, prompts: np.ndarray) -> None:
    shards = folder / f"corpus/teacher=t{teacher}"
    shards.mkdir(parents=True, exist_ok=True)
    n = len(prompts)
    number, answer = (pa.array(some).cast(pa.string()) for some in (prompts, prompts + 1))
    asked = pc.binary_join_element_wise("What is ", number, " + 1?", "")
    said = pc.binary_repeat(pc.binary_join_element_wise("It is ", answer, ". ", ""), 5)
    in_turn = pa.array(np.arange(2 * n).reshape(2, n).T.ravel())
    roles = pa.array(["user", "assistant"] * n)
    turns = pa.StructArray.from_arrays(
        [roles, pa.concat_arrays([asked, said]).take(in_turn)], ["role", "content"]
    )
    prompt = pc.binary_join_element_wise("problem", number, "-")
    columns = {
        "id": pc.binary_join_element_wise(prompt, str(teacher), "/"),
        "prompt_id": prompt,
        "messages": pa.ListArray.from_arrays(np.arange(0, 2 * n + 1, 2, dtype=np.int32), turns),
    }
    pq.write_table(pa.table(columns), shards / f"{part}.parquet")


def _write_scores(folder: Path, obj: InputObject, by_length: float, unit_rows: int) -> None:
    store = Store(str(folder / "store"), "s", None)
    shard = pq.read_table(obj.uri, columns=["id", "prompt_id"], partitioning=None)
    n = shard.num_rows
    teacher, part = obj.uri.split("teacher=t")[1].removesuffix(".parquet").split("/")
    rng = np.random.default_rng([int(teacher), int(part)])
    tokens = rng.integers(100, 20_000, n)
    columns = {
        "trajectory_id": shard["id"], "prompt_id": shard["prompt_id"],
        "teacher": pa.repeat(f"t{teacher}", n), "source": pa.repeat(obj.uri, n),
        "source_row": np.arange(n), "truncated": pa.repeat(False, n), "n_tokens": tokens,
        "n_prompt_tokens": np.full(n, 20),
    }  # fmt: skip
    whole = [name for name in SCORES.names if name.startswith("rank_sum")]
    ranks = (tokens / 100) ** -by_length
    columns |= {name: (tokens * rng.uniform(1, 9, n) * ranks).astype(np.int64) for name in whole}
    sums = ["surprisal_sum", "entropy_sum", "token_ratio_sum", "token_ratio_top30_sum"]
    sums += ["surprisal_top20_sum", "brier_sum"]
    columns |= {name: tokens * rng.uniform(0.3, 2, n) for name in sums}
    columns |= {"n_top30": tokens // 3, "n_top20": tokens // 5, "n_improbable": tokens // 20}
    columns |= {
        "mean_rank": columns["rank_sum"] / tokens,
        "mean_surprisal": columns["surprisal_sum"] / tokens,
    }
    columns["rsr"] = columns["rank_sum"] / columns["surprisal_sum"]
    rows = pa.table(
        [
            column if isinstance(column, pa.ChunkedArray) else pa.array(column, f.type)
            for f in SCORES
            for column in [columns.get(f.name, pa.nulls(n, f.type))]
        ],
        names=SCORES.names,
    ).cast(SCORES)
    for start in range(0, n, unit_rows):
        stop = min(start + unit_rows, n)
        unit = {"key": obj.key, "version": obj.version, "start": start, "stop": stop}
        path = Path(store.unit_uri(FINGERPRINT, unit_name(unit | {"last": stop == n})))
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows.slice(start, stop - start), path, compression="zstd")


class Watch(threading.Thread):
    """What the processes below this one take, looked at twice a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.largest = 0  # KiB
        self._seconds: dict[int, float] = {}
        self._over = threading.Event()

    @property
    def seconds(self) -> float:
        """Of processors, this process included."""
        own = resource.getrusage(resource.RUSAGE_SELF)
        return sum(self._seconds.values()) + own.ru_utime + own.ru_stime

    def run(self) -> None:
        while not self._over.wait(0.5):
            for pid in descendants(os.getpid()):
                with contextlib.suppress(OSError):  # ended meanwhile
                    numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                    self._seconds[pid] = (int(numbers[11]) + int(numbers[12])) / TICKS
                    status = Path(f"/proc/{pid}/status").read_text()
                    if "VmHWM:" in status and "\tray::" in status:
                        peak = int(status.split("VmHWM:")[1].split()[0])
                        self.largest = max(self.largest, peak)

    def end(self) -> None:
        self._over.set()
        self.join()


def measured(arguments: list[str]) -> None:
    """`rsr-ray choose` in this process, then its figures."""
    watch = Watch()
    watch.start()
    begun = time.monotonic()
    code = command_line(["choose", *arguments])
    wall = time.monotonic() - begun
    watch.end()
    driver = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{wall:.0f} s ({watch.seconds:.0f} s of processors), driver peak {driver / 1024:.0f} MiB, "
        f"largest worker {watch.largest / 1024:.0f} MiB",
        flush=True,
    )
    sys.exit(code)


def main(n_prompts: int, unit_rows: int, folder: Path, options: list[str]) -> None:
    if not (folder / "store").exists():
        begun = time.monotonic()
        write(folder, n_prompts, unit_rows=unit_rows)
        wrote = f"written in {time.monotonic() - begun:.0f} s"
        print(f"{n_prompts * TEACHERS:,} rows over {n_prompts:,} prompts {wrote}", flush=True)
    shutil.rmtree(folder / "out", ignore_errors=True)
    command = [sys.executable, "-m", "tests.cluster.measure_choose", "--measured"]
    command += ["--store", f"{folder}/store", "--student", "s", "--out", f"{folder}/out"]
    subprocess.run([*command, *options], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measured"]:
        measured(sys.argv[2:])
    else:
        parser = argparse.ArgumentParser()
        parser.add_argument("prompts", type=int, nargs="?", default=100_000)
        parser.add_argument("--unit-rows", type=int, default=UNIT_ROWS)
        parser.add_argument("--folder", type=Path)
        given, further = parser.parse_known_args()
        with tempfile.TemporaryDirectory() as own:
            main(given.prompts, given.unit_rows, given.folder or Path(own), further)
