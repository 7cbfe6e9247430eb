"""SIGTERM at random times of a night: python -m tests.cluster.measure_sigterm [TIMES] [SEED]

A night of two students, every second one on a Ray of its own, is terminated at a random moment,
and done again. Each time: the exit code, the seconds to the end, what stderr said,
whether the night after has every row once and waited for nobody, and whether a process is left.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .conftest import stored
from .test_nights import config_file, write_shard


def start(config: Path, night: str, **more: object) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "rsr_ray",
        "nightly",
        "--config",
        str(config),
        "--night",
        night,
    ]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
    )  # type: ignore[call-overload, no-any-return]


def prepare(folder: Path, *, on_ray: bool) -> Path:
    for n, teacher in enumerate(("A", "B", "C")):
        write_shard(folder / "corpus" / f"{teacher}.jsonl", teacher, range(n, 40 + n), "terse-7b")
    replicas = {"replicas": 1} if on_ray else {}  # a number of replicas is what only Ray has
    return config_file(folder, folder / "corpus", folder / "store", unit_rows=5, **replicas)


def processes_of(session: int) -> dict[int, str]:
    """Those of a session of processes that still run, by name."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                name = (entry / "cmdline").read_text().replace("\0", " ")[:80]
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found[int(entry.name)] = name
    return found


def whole(store: Path) -> dict[str, list[tuple[str, int]]]:
    """Of each student the rows of its units, by source and place."""
    return {
        name: sorted((row["source"], row["source_row"]) for row in stored(store, name))
        for name in ("one", "two")
    }


def main(times: int, seed: int) -> None:
    rng = random.Random(seed)
    lasts: dict[bool, float] = {}
    for on_ray in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            begun = time.monotonic()
            undisturbed = start(prepare(Path(folder), on_ray=on_ray), "1")
            assert undisturbed.wait() == 0, undisturbed.stderr
            lasts[on_ray] = time.monotonic() - begun
            expected = [len(rows) for rows in whole(Path(folder) / "store").values()]
    print(f"undisturbed: {lasts[False]:.1f} s, on Ray {lasts[True]:.1f} s, {expected} rows")
    worst = 0.0
    for n in range(times):
        with tempfile.TemporaryDirectory() as folder:
            on_ray = n % 2 == 1
            config, store = prepare(Path(folder), on_ray=on_ray), Path(folder) / "store"
            moment = rng.uniform(0.5, lasts[on_ray])
            night = start(config, "1", start_new_session=True)
            time.sleep(moment)
            sent = time.monotonic()
            night.send_signal(signal.SIGTERM)
            _, said = night.communicate(timeout=120)
            took = time.monotonic() - sent
            until = time.monotonic() + 10  # Ray's own processes see that it is gone and follow
            while (left := processes_of(night.pid)) and time.monotonic() < until:
                time.sleep(0.2)
            again = start(config, "2")
            told, why = again.communicate(timeout=300)
            assert again.returncode == 0, f"{moment:.1f} s: {said}\nthen {told}\n{why}"
            rows = list(whole(store).values())
            once = all(
                len(of) == len({*of}) == n_rows for of, n_rows in zip(rows, expected, strict=True)
            )
            waited = "this one exits" in told
            lines = [
                line for line in said.splitlines() if not line.startswith(("Found", "Teachers"))
            ]
            finished = night.returncode == 0
            good = (night.returncode == 143 or finished) and once and not waited and took < 10
            worst = max(worst, took)
            facts = {
                "on_ray": on_ray,
                "at": round(moment, 1),
                "code": night.returncode,
                "seconds": round(took, 1),
                "left": [*left.values()],
                "good": good,
                "said": lines[-3:],
            }
            print(json.dumps(facts), flush=True)
            for pid in left:
                os.kill(pid, signal.SIGKILL)
    print(f"{times} times, the longest {worst:.1f} s")


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 20, int(sys.argv[2]) if len(sys.argv) > 2 else 0
    )
