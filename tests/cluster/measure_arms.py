"""Time of arms, and whether they are what was asked for: python -m tests.cluster.measure_arms
[10000] [further options of arms]

Writes a corpus of ten teachers' short answers to so many prompts, and a store with made-up scores
of them whose rsr falls with their length. Makes five arms of 200 rows a teacher twice through the
command line, each time in a process of its own, and looks at the files: quotas, disjointness,
tokens, bytes.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from .measure_choose import TEACHERS, write

ARMS = ("low", "middle", "high", "random", "matched-low")
QUOTA = 200


def made(folder: Path, out: Path, options: list[str]) -> float:
    """Seconds that the command takes."""
    command = [sys.executable, "-m", "rsr_ray", "arms", "--store", f"{folder}/store"]
    command += ["--student", "s", "--out", str(out), "--arms", *ARMS, *options]
    begun = time.monotonic()
    subprocess.run(command, check=True)
    return time.monotonic() - begun


def check(out: Path, quota: int) -> str:
    """What the written files hold. Raises AssertionError where it is not what was asked for."""
    seen: set[str] = set()
    tokens = []
    for arm in ARMS:
        rows = [
            row["rsr_ray"]
            for path in sorted((out / arm).glob("*.parquet"))
            for row in pq.read_table(path, columns=["rsr_ray"]).to_pylist()
        ]
        ids = {row["trajectory_id"] for row in rows}
        assert Counter(row["teacher"] for row in rows) == {f"t{n}": quota for n in range(TEACHERS)}
        assert len({row["prompt_id"] for row in rows}) == len(rows) == len(ids)
        assert not ids & seen
        seen |= ids
        tokens.append(sum(row["n_tokens"] for row in rows))
    spread = max(tokens) / min(tokens) - 1
    assert spread <= 0.001
    manifest = json.loads((out / "manifest.json").read_text())
    assert [arm["tokens"] for arm in manifest["arms"]] == tokens
    places = ", ".join(
        f"{arm['name']} {arm['place']:.3f}"
        + (
            f" ({arm['free_place']:.3f} without conditions)"
            if arm["free_place"] is not None
            else ""
        )
        for arm in manifest["arms"]
    )
    return f"quotas exact, no row in two arms, tokens within {spread:.4%}; places: {places}"


def digests(out: Path) -> dict[str, str]:
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("train-*"))
    }


def main(n_prompts: int, options: list[str]) -> None:
    quota = QUOTA * n_prompts // 10_000
    options = ["--per-teacher", str(quota), *options]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, n_prompts, by_length=0.3)
        print(f"{n_prompts * TEACHERS:,} rows, {len(ARMS)} arms of {quota:,} of each teacher")
        seconds = [made(folder, folder / out, options) for out in ("a", "b")]
        print(check(folder / "a", quota))
        assert digests(folder / "a") == digests(folder / "b")
        print(f"the same bytes twice; {seconds[0]:.0f} s and {seconds[1]:.0f} s", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 10_000, sys.argv[2:])
