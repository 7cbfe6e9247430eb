"""What a night's decisions cost, of all rows and after 1% more: the teachers table, the ranking and
the page.

    python -m tests.measure_nights FOLDER [STORE]

FOLDER holds a store of tests/big_store.py; its units go into parts first. 1% is added to it three
times: answers of all teachers to new prompts, with and without rows that are known, and more
answers to known prompts, other ones by each teacher.
STORE is a folder or, with AWS_ENDPOINT_URL, a bucket's prefix that FOLDER is copied to before. Each
night is a process of its own; it tells seconds of processors, seconds, peak memory, the bytes read
from the store and the objects listed there.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from rsr_ray.decide.loading import load_scored
from rsr_ray.decide.ranking import rank_teachers
from rsr_ray.files.objects import delete, get, put
from rsr_ray.metrics import RSR
from rsr_ray.report.page.write import store_report
from rsr_ray.run.pipeline import make_teachers
from rsr_ray.store import manifest, parts, records, scores, store
from rsr_ray.store.compaction import compact_once
from rsr_ray.store.store import Store

from .big_store import FINGERPRINT, SHARD_ROWS, shard_rows, write_units

seen: Counter[str] = Counter()


class CountedFile:
    """A file of which it is counted what is read."""

    def __init__(self, opened: Any):
        self.opened = opened

    def __enter__(self) -> "CountedFile":
        self.file = self.opened.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.opened.__exit__(*error)

    def seek(self, at: int) -> None:
        self.file.seek(at)

    def read(self, n: int) -> bytes:
        return self._counted(self.file.read(n))

    def read_at(self, n: int, at: int) -> bytes:
        return self._counted(self.file.read_at(n, at))

    def _counted(self, data: bytes) -> bytes:
        seen["bytes"] += len(data)
        seen["reads"] += 1
        return data


def count_all() -> None:
    """Have what is read and listed counted."""
    real_get, real_opened = scores.get, parts.opened

    def counted_get(*given: Any) -> bytes:
        data = real_get(*given)
        seen["bytes"] += len(data)
        seen["reads"] += 1
        return data

    for module in (scores, records, manifest):
        module.get = counted_get
    parts.opened = lambda *given: CountedFile(real_opened(*given))
    for module, name in (
        (scores, "list_versions"), (manifest, "list_versions"), (store, "list_files"),
        (scores, "list_folders"),
    ):  # fmt: skip
        setattr(module, name, counted_list(getattr(module, name)))


def counted_list(real: Any) -> Any:
    def listed(*given: Any) -> Any:
        found = real(*given)
        seen["listed"] += len(found)
        return found

    return listed


def night(uri: str) -> None:
    """A night's decisions; prints what they took."""
    count_all()
    of_student = Store(uri, "s", None)
    steps, begun = {}, time.monotonic()
    make_teachers(of_student, FINGERPRINT)
    steps["table"] = time.process_time()
    scored = load_scored(of_student, [RSR])
    steps["loaded"] = time.process_time()
    rankings = {"s": rank_teachers(scored, RSR)}
    steps["ranking"] = time.process_time()
    store_report([of_student], RSR, rankings, {"s": scored})
    steps["page"] = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    taken = {"cpu": time.process_time(), "wall": time.monotonic() - begun, "peak": peak}
    print(json.dumps(taken | {"steps": steps} | seen))


def told(what: str, uri: str) -> dict[str, Any]:
    """What a night says, and prints it."""
    command = [sys.executable, "-m", "tests.measure_nights", "--night", uri]
    found = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    taken = json.loads(found.stdout)
    print(
        f"{what}: {taken['cpu']:.1f} s of processors, {taken['wall']:.1f} s, "
        f"{taken['peak']:,.0f} MiB, {taken['bytes'] / 1e6:,.1f} MB in {taken['reads']:,} reads, "
        f"{taken['listed']:,} objects listed; until "
        + ", ".join(f"{name} {seconds:.1f}" for name, seconds in taken["steps"].items()),
        flush=True,
    )
    return json.loads(get(f"{uri}/report/teachers.json", None))["students"][0]


def forget(uri: str) -> None:
    """Have the next night read all rows."""
    delete(f"{uri}/summaries/student=s.parquet", None)
    delete(f"{uri}/teachers/student=s.parquet", None)


KINDS = ("new prompts", "new prompts, 0.5% repeat known rows", "known prompts")


def add(of_student: Store, share: float, kind: str, shard: int) -> None:
    """So many more answers of each teacher, of one of KINDS."""
    names = [row.teacher for row in of_student.read_teacher_rows()]
    rows = sum(row.n_trajectories for row in of_student.read_teacher_rows())
    n = round(share * rows / len(names))
    local = Store(tempfile.mkdtemp(), "s", None)
    for t in range(len(names)):
        last = -(-rows // len(names) // SHARD_ROWS) * SHARD_ROWS
        start = last + shard * SHARD_ROWS
        if kind == "known prompts":
            start = int(np.random.default_rng(t).integers(0, last - n))
        before = shard_rows(t, 0, 4 * n, 0, None)[0] if "repeat" in kind else None
        some, _ = shard_rows(t, start, start + n, shard, before)
        write_units(local, some, 256)
    copy(local.uri, of_student.uri)
    shutil.rmtree(local.uri)


def copy(folder: str, uri: str) -> None:
    root = Path(folder)
    files = [path for path in root.rglob("*") if path.is_file()]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda p: put(f"{uri}/{p.relative_to(root)}", p.read_bytes(), None), files))


def differences(one: Any, other: Any) -> float:
    """The largest relative one of numbers of two answers; 1 where anything else differs."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((differences(one[name], other[name]) for name in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max((differences(a, b) for a, b in zip(one, other, strict=True)), default=0.0)
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) / max(abs(one), abs(other), 1e-12)
    return float(one != other)


def main(folder: str, uri: str | None) -> None:
    if uri and uri != folder:
        copy(folder, uri)
    uri = uri or folder
    of_student = Store(uri, "s", None)
    compact_once(of_student, FINGERPRINT)
    forget(uri)
    told("all rows", uri)
    told("nothing new", uri)
    for shard, kind in enumerate(KINDS, 1000):
        add(of_student, 0.01, kind, shard)
        found = told(f"1% more, {kind}", uri)
        forget(uri)
        whole = told("all of these rows", uri)
        print(f"  largest difference {differences(found, whole):.1e}", flush=True)
        compact_once(of_student, FINGERPRINT)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--night", action="store_true")
    parser.add_argument("folder")
    parser.add_argument("store", nargs="?")
    asked = parser.parse_args()
    if asked.night:
        night(asked.folder)
    else:
        main(asked.folder, asked.store)
