"""What a run shows against its record: python -m tests.cluster.measure_progress [SUMS] [FORM ...]

1,000 rows in 16 shards, a few of them no JSON, under a small student on two replicas of a Ray: once
whole; once killed at half of it, and resumed. In a terminal of tmux (120 columns, read twice a
second), and as a job whose log is read. Of each run a line: its estimates of the time left from a
third of it on; how far the numbers shown while it ran are off what the store had then (2 s more or
less, and what is lost by rounding), and those at the end off the run's record; lines of Ray.
FORM is terminal or job (both). SUMS are the word problems of a row (7): they make a run longer.
"""

import contextlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rsr_ray.demo.corpus import TEACHERS, make_problem, prompt
from rsr_ray.store.run_record import RunRecord
from rsr_ray.store.store import Store
from tests.conftest import DEMO_STUDENT, REPOSITORY, SHARED

from .conftest import BIN, HEAD, free_port, kill, listens, ray_node, replicas, wait_for

N_ROWS, N_SHARDS, NO_JSON = 1000, 16, 8
FORMS = ("terminal", "job")
# A busy machine takes as much time from replicas as from others, to whom Ray would give way.
PRIORITY = {"RAY_worker_niceness": "0"}
ROUNDED = 1.5  # seconds by which two numbers of whole seconds may differ for nothing
WITHIN = 2.0  # seconds between a unit's being written and its being shown
TINY = SHARED / "students" / "tiny-qwen3"
OF_RAY = re.compile(
    r"MapBatches|core_worker|raylet|ray\.data|streaming_executor|actor_pool|\(pid=|\brow\]|::|"
    r"\b(INFO|WARNING|ERROR)\b|^\[|Traceback|autoscaler"
)
NUMBER = r"([\d,.]+)"
SHOWN = {
    "scored": rf"{NUMBER}(?: of about {NUMBER})? trajectories scored",
    "shards": rf"{NUMBER} of {NUMBER} shards",
    "bytes": rf"{NUMBER} [kM]B of {NUMBER} [kM]B",
    "speed": rf"\({NUMBER} over the run\)",
    "padding": rf"padding {NUMBER}%",
    "rejected": rf"{NUMBER} rejected",
}
TIME = r"(\d+)(?::(\d\d))? (s|min)"


@dataclass(frozen=True)
class Frame:
    """What was shown at a moment: each number, and the number it is `of`."""

    at: float  # seconds since the run began, as it says itself
    left: float | None
    numbers: dict[str, tuple[float, float | None]]


def seconds(found: tuple[str, str, str]) -> float:
    whole, part, unit = found
    return int(whole) if unit == "s" else 60 * int(whole) + int(part or 0)


def read_frame(text: str) -> Frame | None:
    """None where it shows nothing scored yet."""
    text = " ".join(text.replace("·", ";").replace("\n", " ; ").split())
    numbers = {}
    for name, pattern in SHOWN.items():
        if found := re.search(pattern, text):
            values = [float(v.replace(",", "")) for v in found.groups() if v is not None]
            numbers[name] = (values[0], values[1] if values[1:] else None)
    times = re.findall(rf"(?:^|; ){TIME}(?= ?;|$)", text)
    if "scored" not in numbers or not times:
        return None
    left = re.search(rf"about {TIME} left", text)
    return Frame(seconds(times[-1]), seconds(left.groups()) if left else None, numbers)


def write(folder: Path, sums: int) -> None:
    """Rows of `sums` word problems each, half more or half fewer."""
    rng = random.Random(0)
    for shard in range(N_SHARDS):
        teacher = [*TEACHERS][shard % len(TEACHERS)]
        path = folder / f"teacher={teacher}" / f"{shard}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = ["no JSON"] * (shard < NO_JSON)
        for i in range(N_ROWS // N_SHARDS + (shard < N_ROWS % N_SHARDS) - len(lines)):
            many = [make_problem(rng) for _ in range(rng.randint(sums // 2, sums * 3 // 2))]
            text = "\n\n".join(TEACHERS[teacher](one, rng) for one in many)
            row = {"id": f"{shard}/{i}", "prompt": prompt(many[0]), "response": text}
            lines.append(json.dumps(row))
        path.write_text("\n".join(lines) + "\n")


@dataclass
class Seen:
    """What was read of a run."""

    frames: list[Frame]
    text: str  # all that it wrote


class Terminal:
    """Runs the command line in a window of tmux."""

    def __init__(self, folder: Path):
        self.tmux = ["tmux", "-S", str(folder / "tmux")]

    def run(self, options: list[str], watch: Callable[[Frame, int], None]) -> Seen:
        keep = ["set-option", "-g", "remain-on-exit", "on", ";"]
        keep += ["set-option", "-g", "history-limit", "10000", ";"]
        command = [sys.executable, "-m", "rsr_ray", "score", *options]
        subprocess.run(
            [*self.tmux, "-f", "/dev/null", *keep, "new-session", "-d", "-x", "120", "-y", "50",
             "--", *command], check=True, cwd=REPOSITORY, env=os.environ | PRIORITY,
        )  # fmt: skip
        pid, seen = int(self.ask("display-message", "-p", "#{pane_pid}")), Seen([], "")
        while self.ask("display-message", "-p", "#{pane_dead}").strip() == "0":
            text = self.ask("capture-pane", "-p", "-S", "-")
            seen.text += text
            if frame := read_frame(text):
                seen.frames.append(frame)
                watch(frame, pid)
            time.sleep(0.5)
        seen.text += self.ask("capture-pane", "-p", "-S", "-", "-J")
        subprocess.run([*self.tmux, "kill-server"], check=True)
        return seen

    def ask(self, *command: str) -> str:
        done = subprocess.run([*self.tmux, *command], check=True, capture_output=True, text=True)
        return done.stdout


class Job:
    """Submits a job to a head of its own and reads the log that Ray keeps of it."""

    def __init__(self, folder: Path, dashboard: int):
        self.folder, self.dashboard = folder, dashboard

    def run(self, options: list[str], watch: Callable[[Frame, int], None]) -> Seen:
        name = f"job-{time.monotonic_ns()}"
        where = ["--address", f"http://127.0.0.1:{self.dashboard}", "--submission-id", name]
        command = [str(BIN / "ray"), "job", "submit", *where, "--no-wait", "--working-dir", "jobs"]
        env = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
        command += ["--", "python", str(REPOSITORY / "jobs" / "score.py"), *options]
        subprocess.run(command, check=True, cwd=REPOSITORY, env=env, capture_output=True)
        log = self.folder / "session_latest" / "logs" / f"job-driver-{name}.log"
        wait_for(lambda: bool(drivers()))
        while pids := drivers():
            if log.exists() and (shown := frames_of(log.read_text())):
                watch(shown[-1], pids[0])
            time.sleep(0.5)
        return Seen(frames_of(text := log.read_text()), text)


def drivers() -> list[int]:
    """Processes that run the job's script."""
    found, script = [], str(REPOSITORY / "jobs" / "score.py").encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().split(b"\0")[1:2] == [script]:
                found.append(int(path.parent.name))
    return found


def frames_of(log: str) -> list[Frame]:
    """Of the lines that a run writes every 30 s."""
    lines = [line for line in log.splitlines() if line.startswith("rsr-ray: ")]
    return [frame for line in lines if (frame := read_frame(line.removeprefix("rsr-ray: ")))]


@contextlib.contextmanager
def job(folder: Path) -> Iterator[Job]:
    dashboard = free_port()
    options = [f"--dashboard-port={dashboard}", f"--temp-dir={folder}/ray", f"--port={free_port()}"]
    with ray_node("--head", *options, **HEAD):
        wait_for(lambda: listens(dashboard))
        yield Job(folder / "ray", dashboard)


def units_of(store: str, begun: float) -> np.ndarray:
    """Of each unit that a run wrote: when, in seconds since it began, and how many trajectories,
    rejects and tokens it has; in order, added up.
    """
    found = []
    for path in Path(store, "scores").rglob("*.parquet"):
        table = pq.read_table(path, partitioning=None)
        rejected = table.num_rows - table["reject_reason"].null_count
        tokens = sum(pc.sum(table[name]).as_py() or 0 for name in TOKENS)
        scored = table["reject_reason"].null_count
        found.append((path.stat().st_mtime - begun, scored, rejected, tokens))
    units = np.array(sorted(unit for unit in found if unit[0] >= 0))
    units[:, 1:] = units[:, 1:].cumsum(0)
    return units


TOKENS = ("n_tokens", "n_prompt_tokens")


def off(value: float, low: float, high: float) -> float:
    """How far it lies out of a range, as a share of it."""
    return max(0.0, low - value, value - high) / max(1.0, value)


def while_it_ran(frames: list[Frame], units: np.ndarray) -> dict[str, float]:
    """The largest difference of each number shown to what the store had by then."""

    def there(at: float) -> np.ndarray:
        n = int(np.searchsorted(units[:, 0], at, side="right"))
        return units[n - 1, 1:] if n else np.zeros(3)

    worst: dict[str, float] = {}
    for frame in frames:
        low, high = there(frame.at - WITHIN), there(frame.at + WITHIN)
        ranges = {name: (low[n], high[n]) for n, name in enumerate(("scored", "rejected"))}
        ranges["speed"] = low[2] / (frame.at + 0.5) - 0.5, high[2] / (frame.at - 0.5) + 0.5
        for name, span in ranges.items():
            shown = frame.numbers.get(name, (0.0, None))[0]
            worst[name] = max(worst.get(name, 0.0), off(shown, *span))
    return worst


def at_its_end(said: str, record: RunRecord) -> dict[str, float]:
    """How far the summary of a run is off its record."""
    scored, rejected, before, tokens, speed, padding = (
        float(re.findall(pattern, said)[-1].replace(",", ""))
        for pattern in (
            rf"= scored {NUMBER} \+",
            rf"\+ rejected {NUMBER} \+",
            rf"already scored {NUMBER}\b",
            rf"{NUMBER} tokens in",
            rf": {NUMBER} tokens/s, padding",
            rf"tokens/s, padding {NUMBER}%",
        )
    )
    equation = record.equation
    assert record.padding_share is not None
    n_rejected = sum(equation.rejected.values())
    return {
        "scored": off(scored, equation.scored, equation.scored),
        "rejected": off(rejected, n_rejected, n_rejected),
        "already": off(before, equation.already_scored, equation.already_scored),
        "tokens": off(tokens, *[record.scored_tokens + record.prompt_tokens] * 2),
        "speed": off(speed, record.tokens_per_second - 0.5, record.tokens_per_second + 0.5),
        "padding": off(padding, 100 * record.padding_share - 0.5, 100 * record.padding_share + 0.5),
    }


def compare(name: str, seen: Seen, store: str) -> None:
    record = Store(store, STUDENT, None).last_run()
    assert record is not None
    begun = datetime.strptime(record.run_id[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    # what was said to be left, and what was
    told = [(f.left, record.seconds - f.at, f.at) for f in seen.frames if f.left is not None]
    late = [one for one in told if one[2] >= record.seconds / 3]
    off_by = [said / was - 1 for said, was, _ in late if abs(said - was) > ROUNDED]
    within = len(late) - sum(abs(by) > 0.25 for by in off_by)
    few = told[:: len(told) // 8 + 1]
    some = ", ".join(f"at {at:.0f} s {said:.0f} for {was:.0f}" for said, was, at in few)
    units = units_of(store, begun)
    ran = while_it_ran(seen.frames, units)
    ended = at_its_end(seen.text, record)
    # a job's log begins with what Ray says of the job
    said = [line for line in seen.text.splitlines() if "job_manager.py" not in line]
    of_ray = [line for line in said if OF_RAY.search(line)]
    print(
        f"{name}: {record.seconds:.0f} s, {record.tokens_per_second:,.0f} tokens/s\n"
        f"  {within} of {len(late)} estimates of the time left within 25%, worst "
        f"{max(off_by, key=abs, default=0.0):+.0%}: {some}\n"
        f"  off the store in {len(seen.frames)} looks: {shares(ran)}\n"
        f"  off its record: {shares(ended)}\n"
        f"  {len(of_ray)} lines of Ray {of_ray[:3]}",
        flush=True,
    )


def shares(of: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.2%}" for name, share in of.items())


def no_replicas() -> bool:
    with contextlib.suppress(ChildProcessError):
        # Ray's own processes, where this one is the first of its namespace and inherits them:
        # replicas take a dead raylet that nobody has waited for as alive.
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return not replicas()


STUDENT = (TINY if TINY.is_dir() else DEMO_STUDENT).name


def measure(form: str, where: Terminal | Job, corpus: Path, folder: Path, *more: str) -> None:
    def options(store: str) -> list[str]:
        student = TINY if TINY.is_dir() else DEMO_STUDENT
        named = ["--corpus", str(corpus), "--student", str(student), "--store", store]
        return [*named, "--replicas", "2", "--max-rejects", "0.1", *more]

    whole, half = (str(folder / f"{form}-{name}") for name in ("whole", "half"))
    compare(f"{form}, whole", where.run(options(whole), lambda *_: None), whole)

    def kill_at_half(frame: Frame, pid: int) -> None:
        if frame.numbers["scored"][0] >= N_ROWS / 2:
            kill(pid)

    killed = where.run(options(half), kill_at_half)
    print(f"{form}, killed after {killed.frames[-1].at:.0f} s", flush=True)
    wait_for(no_replicas)
    compare(f"{form}, resumed", where.run(options(half), lambda *_: None), half)


def main(sums: int, forms: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        write(folder / "corpus", sums)
        if "terminal" in forms:
            measure("terminal", Terminal(folder), folder / "corpus", folder)
        if "job" in forms:
            in_job = stack.enter_context(job(folder))
            measure("job", in_job, folder / "corpus", folder)


if __name__ == "__main__":
    given = sys.argv[1:]
    sums = [int(word) for word in given if word.isdigit()]
    main(sums[0] if sums else 7, [word for word in given if not word.isdigit()] or [*FORMS])
