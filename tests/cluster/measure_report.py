"""Time, memory and size of a report: python -m tests.cluster.measure_report [25000] [40]

Over made-up scores of so many teachers' answers to so many prompts, 256 rows a unit, by the command
line in a process of its own.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from rsr_ray.schema import TEACHERS
from rsr_ray.store.store import Store

from .measure_choose import write


def main(n_prompts: int, n_teachers: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), n_prompts, n_teachers)
        store = Store(f"{name}/store", "s", None)
        ((fingerprint, units),) = store.units().items()
        counts = {
            "n_trajectories": n_prompts,
            "n_prompts": n_prompts,
            "n_rejected": 0,
            "rejects": {},
            "n_duplicates": 0,
            "n_truncated": 0,
            "n_tokens": 0,
        }
        table = [
            {"teacher": f"t{t}", **counts, "fingerprint": fingerprint} for t in range(n_teachers)
        ]
        store.write_teachers(pa.Table.from_pylist(table, schema=TEACHERS), units)
        print(
            (
                f"{n_prompts * n_teachers:,} trajectories of {n_teachers} teachers, "
                f"{len(units):,} units"
            ),
            flush=True,
        )
        begun = time.monotonic()
        made = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "rsr_ray",
                "report",
                "--store",
                store.uri,
                "--out",
                f"{name}/report",
            ]
        )
        peak = 0
        while made.poll() is None:
            status = Path(f"/proc/{made.pid}/status").read_text()
            peak = max(
                [
                    peak,
                    *(
                        int(line.split()[1])
                        for line in status.splitlines()
                        if line.startswith("VmHWM")
                    ),
                ]
            )
            time.sleep(0.2)
        size = Path(f"{name}/report/index.html").stat().st_size
        print(
            f"{time.monotonic() - begun:.0f} s, peak {peak / 1024:.0f} MiB, index.html "
            f"{size / 1e6:.2f} MB"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 25_000, int(sys.argv[2]) if sys.argv[2:] else 40)
