"""Whether two checkouts give the same: python -m tests.same_answers BEFORE AFTER

In each, the same commands on the same data, in processes of their own: a run, its ranking, a
comparison, a choice, a race, correlations, a report and the registry. What they print as JSON, and
the scores that they store, are compared to the last bit; a difference is printed and ends with 1.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

# what is of a moment or a place, not of the data
PASSING = re.compile(
    r"^(run_id|race_id|seconds|started|finished|time|written|made|age|uri|store|out|versions|"
    r"version|resources|host|.*_seconds|.*_per_second|.*_rss_bytes)$"
)


def commands(data: Path, work: Path) -> dict[str, list[str]]:
    corpus, student, store = str(data / "corpus"), str(data / "student"), str(work / "store")
    of_store = ["--store", store, "--student", "student"]
    accuracies = data / "accuracies.csv"
    return {
        "preview": ["preview", "--corpus", corpus, "--student", student, "--json"],
        "score": ["score", "--corpus", corpus, "--student", student, "--store", store, "--json"],
        "again": ["score", "--corpus", corpus, "--student", student, "--store", store, "--json"],
        "teachers": ["teachers", *of_store, "--json"],
        "teachers by rank": ["teachers", *of_store, "--by", "mean_rank", "--json"],
        "compare": ["compare", store, store, "--json"],
        "choose": ["choose", *of_store, "--out", str(work / "chosen"), "--json"],
        "correlate": [
            "correlate", "--store", store, "--accuracies", str(accuracies), "--json"
        ],
        "rejects": ["rejects", *of_store, "--json"],
        "report": ["report", "--store", store, "--out", str(work / "page")],
        "metrics": ["metrics", "--json"],
    }  # fmt: skip


def lasting(value: Any) -> Any:
    """A JSON value without what passes."""
    if isinstance(value, dict):
        return {key: lasting(v) for key, v in value.items() if not PASSING.fullmatch(key)}
    if isinstance(value, list):
        return [lasting(v) for v in value]
    return value


def answers(checkout: Path, data: Path, work: Path) -> dict[str, Any]:
    """What the commands of a checkout print and store."""
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    found: dict[str, Any] = {}

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True, text=True, cwd=checkout, env=environment,
        )  # fmt: skip

    for name, command in commands(data, work).items():
        done = python("-m", "rsr_ray", *command)
        assert done.returncode in (0, 1), f"{checkout}: {name}: {done.stderr}"
        lines = [line for line in done.stdout.splitlines() if line.startswith(("{", "["))]
        found[name] = [lasting(json.loads(line)) for line in lines] or done.stdout
    for path in sorted((work / "store" / "scores").rglob("*.parquet")):
        found[str(path.relative_to(work))] = pq.read_table(path).to_pylist()
    for path in sorted((work / "chosen").rglob("*.parquet")):
        found[str(path.relative_to(work))] = pq.read_table(path).to_pylist()
    for name in ("teachers.csv", "summary.md"):
        found[name] = (work / "page" / name).read_text()
    return found


def write_data(checkout: Path, data: Path) -> None:
    """The demo's corpus and student, and made-up accuracies of its teachers."""
    code = "import sys; from rsr_ray.demo.corpus import write_corpus; "
    code += "from pathlib import Path; write_corpus(Path(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", code, str(data / "corpus")],
        check=True, cwd=checkout, env=os.environ | {"PYTHONPATH": str(checkout)},
    )  # fmt: skip
    shutil.copytree(checkout / "rsr_ray" / "demo" / "student", data / "student")
    names = ["terse-7b", "methodical-32b", "flowery-8b", "formal-72b"]
    rows = [f"student,{name},{40 + n}" for n, name in enumerate(names)]
    (data / "accuracies.csv").write_text("\n".join(["student,teacher,accuracy", *rows]))


def differences(was: Any, is_now: Any, place: str) -> Iterator[str]:
    """Where two values differ, and how."""
    if isinstance(was, dict) and isinstance(is_now, dict):
        for key in {**was, **is_now}:
            yield from differences(was.get(key, "-"), is_now.get(key, "-"), f"{place} {key}")
    elif isinstance(was, list) and isinstance(is_now, list) and len(was) == len(is_now):
        for n, pair in enumerate(zip(was, is_now, strict=True)):
            yield from differences(*pair, f"{place} {n}")
    elif was != is_now:
        yield f"{place}: {str(was)[:200]} | {str(is_now)[:200]}"


def main(before: str, after: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        data, work, found = Path(folder) / "data", Path(folder) / "work", []
        data.mkdir()
        write_data(Path(before).resolve(), data)
        for checkout in (Path(before).resolve(), Path(after).resolve()):
            work.mkdir()  # at the same place for both, because paths are part of what is printed
            found.append(answers(checkout, data, work))
            work.rename(Path(folder) / f"done-{len(found)}")
    different = list(differences(*found, ""))
    print("\n".join(different[:100]))
    print(f"{len(found[0])} answers and files, {len(different)} values differ")
    return int(bool(different))


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:3]))
