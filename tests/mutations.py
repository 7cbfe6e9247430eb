"""Files of a store changed at random: a command says the undisturbed numbers, or it names the file;
it never raises.

    python -m tests.mutations --n 10000 --seed 0

Each mutation changes one file of a fresh copy of a small store (two students, three teachers,
tokens, runs, a night, leases): bytes flipped, cut, zeroed, swapped with a neighbour, emptied,
copied to a neighbour's name, replaced by something else, deleted. One command of the list then runs
on it in this process. Its outcome is compared with that of the store as it was.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rsr_ray.cli import main
from rsr_ray.store.records import warn_once

from .cluster.conftest import write_many
from .conftest import DEMO_STUDENT

TEACHERS = ("terse-7b", "formal-72b", "methodical-32b")
NIGHT = "2026-01-02"
# What runs, and how often of 1,000: those that start a task on Ray take seconds.
COMMANDS = {"teachers": 930, "report": 40, "choose": 20, "score": 10}
RAY = ("choose", "score")
FREE = {"notes", "created", "seconds", "versions"}  # another every time, or words


@dataclass
class Outcome:
    """What a command gave."""

    code: int
    out: str
    err: str
    numbers: Any = None  # what it computed, without what is another every time
    raised: str | None = None

    @property
    def said(self) -> str:
        return self.out + self.err


@dataclass
class Told:
    """Counts over all mutations, and those that went wrong."""

    ran: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Bench:
    """A store, its corpus, and what each command gives on it undisturbed."""

    def __init__(self, folder: Path):
        self.folder, self.corpus, self.store, self.copy = (
            folder,
            folder / "corpus",
            folder / "store",
            folder / "copy",
        )
        write_many(self.corpus, 3, 12, teachers=TEACHERS)
        for name in ("one", "two"):
            ran = run(["score", *self.score_options(self.store, name)])
            assert ran.code == 0, ran.said
        options = {
            "corpus": [str(self.corpus)],
            "store": str(self.store),
            "unit_rows": 6,
            "replicas": 1,
            "token_scores": True,
        }
        students = [{"student": str(DEMO_STUDENT), "student_name": name} for name in ("one", "two")]
        (folder / "nightly.yaml").write_text(json.dumps(options | {"students": students}))
        for night in ("2026-01-01", NIGHT):
            ran = run(["nightly", "--config", str(folder / "nightly.yaml"), "--night", night])
            assert ran.code == 0, ran.said
        shutil.rmtree(self.store / "report")
        self.undisturbed = {name: self.run(name, self.store) for name in COMMANDS}
        for name, outcome in self.undisturbed.items():
            assert outcome.code == 0, (name, outcome)
        self.files = sorted(p.relative_to(self.store) for p in self.store.rglob("*") if p.is_file())

    def score_options(self, store: Path, name: str) -> list[str]:
        where = [
            "--corpus",
            str(self.corpus),
            "--student",
            str(DEMO_STUDENT),
            "--student-name",
            name,
            "--store",
            str(store),
        ]
        return [
            *where,
            "--unit-rows",
            "6",
            "--replicas",
            "1",
            "--token-scores",
            "--max-rejects",
            "1",
            "--json",
        ]

    def run(self, command: str, store: Path) -> Outcome:
        """The command on student one of a store."""
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        of_store = ["--store", str(store), "--student", "one"]
        if command == "teachers":
            done = run(["teachers", *of_store, "--json"])
            done.numbers = numbers(done.out)
        elif command == "report":
            done = run(["report", *of_store, "--out", str(out)])
            done.numbers = [
                scrubbed((out / name).read_text())
                for name in ("teachers.csv", "summary.md")
                if (out / name).is_file()
            ]
            done.out += "".join(path.read_text() for path in out.glob("*.md"))
        elif command == "choose":
            done = run(["choose", *of_store, "--by", "rsr", "--out", str(out), "--json"])
            done.numbers = numbers(done.out)
        else:
            done = run(["score", *self.score_options(store, "one")])
            found = numbers(done.out)
            done.numbers = found and {"teachers": found["teachers"]}
        return done

    def fresh(self) -> None:
        """The copy as the store is: files are links, the mutated one is then replaced."""
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.store, self.copy, copy_function=os.link)


def run(arguments: list[str]) -> Outcome:
    """The command line in this process, with what it logs."""
    warn_once.cache_clear()
    out, err = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(err)
    logger = logging.getLogger("rsr_ray")
    logger.addHandler(handler)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            return Outcome(main(arguments), out.getvalue(), err.getvalue())
    except BaseException as e:
        return Outcome(-1, out.getvalue(), err.getvalue(), raised=f"{type(e).__name__}: {e}")
    finally:
        logger.removeHandler(handler)


def numbers(out: str) -> Any:
    """The last line of the output as JSON, without what is another every time; None where there
    is none.
    """
    lines = out.strip().splitlines()
    return (
        json.loads(lines[-1].replace("/copy", "/store"), object_hook=without_words)
        if lines and lines[-1].startswith("{")
        else None
    )


def without_words(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name not in FREE}


def scrubbed(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", text).replace("/copy", "/store")


# --- mutations-------------------------------------------------------------------------------------


def flip(data: bytes, _: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _n in range(rng.choice((1, 1, 1, 3, 20))):
        at = rng.randrange(len(out))
        out[at] ^= 1 << rng.randrange(8)
    return bytes(out)


def cut(data: bytes, _: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(1, len(data))]


def zero(data: bytes, _: bytes, rng: random.Random) -> bytes:
    at, n = rng.randrange(len(data)), rng.choice((1, 16, 64))
    return data[:at] + bytes(len(data[at : at + n])) + data[at + n :]


def inside(data: bytes, _: bytes, rng: random.Random) -> bytes:
    """Two parts change places."""
    a, b, c = sorted(rng.randrange(len(data)) for _n in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def other(_: bytes, __: bytes, rng: random.Random) -> bytes:
    return rng.choice(
        (
            b"PAR1",
            b"{}",
            b"[1]",
            b"null",
            b"\0" * 300,
            b"PK\x03\x04",
            b'{"seconds": "x"}',
            rng.randbytes(500),
        )
    )


CHANGES: dict[str, Callable[[bytes, bytes, random.Random], bytes]] = {
    "flipped": flip,
    "cut": cut,
    "zeroed": zero,
    "parts swapped": inside,
    "emptied": lambda *_: b"",
    "something else": other,
    "copied to a neighbour": lambda *given: given[1],
    "joined": lambda *given: given[0] + given[1],
}
WEIGHTS = {"flipped": 8, "cut": 3, "zeroed": 3, "parts swapped": 2, "copied to a neighbour": 3}
KINDS = [*CHANGES, "swapped with a neighbour", "deleted"]


def mutate(bench: Bench, rng: random.Random) -> tuple[str, list[Path]]:
    """Change the copy; what was done, and the files it was done to."""
    kind = rng.choices(KINDS, [WEIGHTS.get(kind, 1) for kind in KINDS])[0]
    # Some files are many, some few: of which sort comes first, then which of them.
    sort = rng.choice(sorted({path.parts[0] for path in bench.files}))
    path = rng.choice([p for p in bench.files if p.parts[0] == sort])
    alike = [p for p in bench.files if p != path and p.suffix == path.suffix]
    near = [p for p in alike if p.parts[0] == sort] or alike
    neighbour = rng.choice(near if rng.random() < 0.8 else alike)
    data, beside = (bench.store / path).read_bytes(), (bench.store / neighbour).read_bytes()
    if kind == "deleted":
        (bench.copy / path).unlink()
        return kind, [path]
    touched = (
        {path: CHANGES[kind](data, beside, rng)}
        if kind in CHANGES
        else {path: beside, neighbour: data}
    )
    for name, content in touched.items():
        times = (bench.copy / name).stat()
        (bench.copy / name).unlink()  # a link to the store's own
        (bench.copy / name).write_bytes(content)
        if rng.random() < 0.5:  # as a disk that rots: nothing tells it but the bytes
            os.utime(bench.copy / name, ns=(times.st_atime_ns, times.st_mtime_ns))
    return kind, list(touched)


def try_one(bench: Bench, command: str, seed: str, told: Told) -> None:
    """One mutation, and what a command makes of it."""
    bench.fresh()
    kind, touched = mutate(bench, random.Random(seed))
    done, want = bench.run(command, bench.copy), bench.undisturbed[command]
    told.ran[command] += 1
    told.kinds[kind] += 1
    is_named = any(path.name in done.said or str(path) in done.said for path in touched)
    same = done.numbers == want.numbers and done.code == want.code
    if done.raised or "Traceback" in done.said:
        problem = done.raised or "a trace"
    elif not same and not is_named:
        problem = (
            f"exit {done.code}, other numbers, and none of the files is named: {done.err[-300:]}"
        )
    else:
        told.ends[
            "the same numbers"
            if same and not is_named
            else "the same numbers, the file named"
            if same
            else "the file named"
        ] += 1
        return
    told.wrong.append(f"{seed} {command} {kind} {', '.join(map(str, touched))}: {problem}")
    print(told.wrong[-1], file=sys.stderr, flush=True)


def commands_of(n: int, rng: random.Random, shares: dict[str, int]) -> list[str]:
    """Which command each mutation runs under, Ray's last."""
    counts = {
        name: max(1, round(n * share / sum(shares.values()))) for name, share in shares.items()
    }
    counts[next(iter(shares))] += n - sum(counts.values())
    return [name for name, count in counts.items() for _ in range(count)]


def measure(folder: Path, n: int, seed: int, shares: dict[str, int]) -> Told:
    """Try n mutations. Ray is initialised."""
    bench, told = Bench(folder), Told()
    begun = time.monotonic()
    for i, command in enumerate(commands_of(n, random.Random(seed), shares)):
        try_one(bench, command, f"{seed}/{i}", told)
        if i % 500 == 499:
            print(
                f"{i + 1:,} of {n:,}, {time.monotonic() - begun:.0f} s, {len(told.wrong)} wrong",
                file=sys.stderr,
                flush=True,
            )
    return told


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=COMMANDS)
    options = parser.parse_args()
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=300_000_000,
        log_to_driver=False,
    )
    with tempfile.TemporaryDirectory(prefix="rsr_ray-mutations-") as made:
        told = measure(
            Path(made), options.n, options.seed, {options.only: 1} if options.only else COMMANDS
        )
    for line in told.wrong:
        print(line)
    print(
        json.dumps(
            {
                "mutations": options.n,
                "ran": told.ran,
                "kinds": told.kinds,
                "ends": told.ends,
                "wrong": len(told.wrong),
            },
            indent=1,
        )
    )
    sys.exit(bool(told.wrong))
