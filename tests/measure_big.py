"""Time and memory of what decides: python -m tests.measure_big FOLDER [teachers report ...]

FOLDER holds a store of tests/big_store.py; each command runs in a process of its own.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main(folder: str, names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as out:
        commands = {
            "teachers": ["--student", "s", "--json"],
            "report": ["--out", f"{out}/report"],
        }
        for name in names or commands:
            seconds, mib = measure([name, "--store", folder, *commands[name]], f"{out}/{name}.txt")
            print(f"{name}: {seconds:.0f} s, peak {mib:.0f} MiB", flush=True)


def measure(command: list[str], out: str) -> tuple[float, float]:
    """Seconds that an rsr-ray command takes, and the most memory it had in MiB."""
    begun, peak = time.monotonic(), 0
    with Path(out).open("wb") as file:
        running = subprocess.Popen([sys.executable, "-m", "rsr_ray", *command], stdout=file)
        while running.poll() is None:
            status = Path(f"/proc/{running.pid}/status").read_text().splitlines()
            peak = max([peak, *(int(s.split()[1]) for s in status if s.startswith("VmHWM"))])
            time.sleep(0.2)
    if running.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {running.returncode}")
    return time.monotonic() - begun, peak / 1024


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
