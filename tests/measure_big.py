"""Time and memory of what decides: python -m tests.measure_big FOLDER [teachers report compare]

FOLDER holds a store of tests/big_store.py; each command runs in a process of its own.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main(folder: str, names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as out:
        commands = {
            "teachers": ["--store", folder, "--student", "s", "--json"],
            "report": ["--store", folder, "--out", f"{out}/report"],
            "compare": [folder, folder],  # the store with itself: both sides are read
        }
        for name in names or commands:
            print(name, measure([name, *commands[name]], f"{out}/{name}.txt"), flush=True)


def measure(command: list[str], out: str) -> str:
    """What an rsr-ray command takes."""
    begun = time.monotonic()
    with Path(out).open("wb") as file:
        running = subprocess.Popen([sys.executable, "-m", "rsr_ray", *command], stdout=file)
        _, status, used = os.wait4(running.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: status {status}")
    cpu = used.ru_utime + used.ru_stime
    seconds = f"{time.monotonic() - begun:.0f} s ({cpu:.0f} s of processors)"
    return f"{seconds}, peak {used.ru_maxrss / 1024:.0f} MiB"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
