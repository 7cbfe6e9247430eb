"""rsr-ray bench: this engine beside the naive way, side by side in one run on this machine.

Both score the same rows under the same student of random weights: the arithmetic is that of a
trained one.
"""

import datetime
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rsr_ray.bench.figures import Benchmark, Figures
from rsr_ray.bench.machine import device_name, matmul_flops_per_second, peak_memory, profile
from rsr_ray.bench.naive import naive_padding, naive_rows, whole_model
from rsr_ray.bench.student import SHAPES, Shape, make_student, rows_of
from rsr_ray.engine.scoring import Work, score_rows
from rsr_ray.errors import UserError
from rsr_ray.student.model import Student
from rsr_ray.student.weights import check_weights

R_MAX = 100
Sums = dict[str, np.ndarray]  # `rank_sum` and `surprisal_sum`, each [R]


@dataclass
class Way:
    """A way to score the rows, and what was measured of it, round by round."""

    score: Callable[[], Sums]
    seconds: list[float] = field(default_factory=list)
    peak: list[int] = field(default_factory=list)  # bytes above the weights
    sums: Sums = field(default_factory=dict)  # of the last round

    def measure(self, device: str) -> None:
        """A further round."""
        with peak_memory(device) as used:
            begun = time.perf_counter()
            self.sums = self.score()
            self.seconds.append(time.perf_counter() - begun)
        self.peak.append(used[0])

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def bench(out: str, rounds: int) -> Benchmark:
    """Measure, and keep the result as JSON under `out`, one file a machine and day.

    Raises UserError.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = SHAPES[device]
    if device == "cpu":
        torch.set_num_threads(1)  # as a replica has; both ways alike
    both = SideBySide.of(shape, *load_both(shape, device), rounds, device)
    engine, naive, load = both.engine, both.naive, both.load
    result = Benchmark(
        date=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        device=device_name(device),
        shape=shape,
        parameters=both.parameters,
        rounds=rounds,
        tokens=load.n_tokens,
        scored_tokens=load.n_scored,
        matmul_ceiling_tflops=load.ceiling / 1e12,
        necessary_tflop=load.flop / 1e12,
        engine_over_naive=times_faster(engine, naive),
        largest_relative_difference_of_surprisal=surprisals_apart(engine, naive),
        rank_sums_that_differ=int(np.sum(engine.sums["rank_sum"] != naive.sums["rank_sum"])),
        engine=both.figures_of_engine,
        naive=both.figures_of_naive,
        profile=profile(engine.score) if device == "cpu" else None,
    )
    return replace(result, file=str(keep(result, out)))


def load_both(shape: Shape, device: str) -> tuple[int, Student, Any]:
    """How many parameters a student of this shape has, as the engine loads it, and as a whole."""
    with tempfile.TemporaryDirectory() as folder:
        parameters = make_student(shape, folder)
        check_weights(folder, folder, trust_remote_code=False)
        student = Student(folder, shape.dtype, device)
        return parameters, student, whole_model(folder, shape.dtype, device)


def measure(ways: list[Way], rounds: int, shape: Shape, device: str) -> float:
    """Each way in turn, `rounds` times over; meanwhile what the machine reaches at most, in
    floating-point operations a second.
    """
    import torch

    ceilings = []
    with torch.inference_mode():
        for _ in range(rounds):
            ceilings.append(matmul_flops_per_second(shape, device))
            for way in ways:
                way.measure(device)
    return statistics.median(ceilings)


@dataclass(frozen=True)
class Load:
    """What there was to do, and how fast this machine could do it at most."""

    n_rows: int
    n_tokens: int
    n_scored: int
    flop: float
    ceiling: float  # of a matrix product, floating-point operations a second

    @classmethod
    def of(
        cls,
        shape: Shape,
        parameters: int,
        lengths: np.ndarray,
        spans: list[np.ndarray],
        ceiling: float,
    ) -> "Load":
        """`lengths` [R] in tokens, `spans` one a row."""
        n_scored = int(sum(stop - start for start, stop in spans))
        flop = necessary_flops(shape, parameters, lengths, n_scored)
        return cls(len(lengths), int(lengths.sum()), n_scored, flop, ceiling)

    def figures(self, way: Way, padding_share: float) -> Figures:
        seconds = way.median
        return Figures(
            seconds=seconds,
            trajectories_per_second=self.n_rows / seconds,
            tokens_per_second=self.n_tokens / seconds,
            scored_tokens_per_second=self.n_scored / seconds,
            padding_share=padding_share,
            peak_bytes_above_weights=max(way.peak),
            share_of_matmul_ceiling=self.flop / seconds / self.ceiling,
        )


@dataclass(frozen=True)
class SideBySide:
    """The engine and the naive way on the same rows under the same student, measured in turn."""

    engine: Way
    naive: Way
    load: Load
    parameters: int
    padding: tuple[float, float]  # shares, of the engine and of the naive way

    @classmethod
    def of(
        cls, shape: Shape, parameters: int, student: Student, model: Any, rounds: int, device: str
    ) -> "SideBySide":
        """`model` is the student's whole one."""
        ids, spans = rows_of(shape)
        work = Work(shape.batch_tokens)
        engine = Way(partial(score_rows, student, ids, spans, work, R_MAX))
        naive = Way(partial(naive_rows, model, ids, spans, R_MAX))
        # what happens once is not measured
        score_rows(student, ids[:2], spans[:2], Work(shape.batch_tokens), R_MAX)
        ceiling = measure([engine, naive], rounds, shape, device)
        lengths = np.array([len(row) for row in ids])
        load = Load.of(shape, parameters, lengths, spans, ceiling)
        padding = 1 - work.positions / work.padded, naive_padding(lengths)
        return cls(engine, naive, load, parameters, padding)

    @property
    def figures_of_engine(self) -> Figures:
        return self.load.figures(self.engine, self.padding[0])

    @property
    def figures_of_naive(self) -> Figures:
        return self.load.figures(self.naive, self.padding[1])


def necessary_flops(shape: Shape, parameters: int, lengths: np.ndarray, n_scored: int) -> float:
    """Floating point operations no implementation can save: layers, causal attention, the head
    at scored positions.
    """
    attention = shape.layers * 4 * (lengths.astype(float) ** 2).sum() / 2 * shape.hidden
    return (
        2.0 * parameters * lengths.sum()
        + attention
        + 2.0 * shape.hidden * shape.vocabulary * n_scored
    )


def times_faster(engine: Way, naive: Way) -> float:
    """How much faster the engine is, by the median of the rounds."""
    return statistics.median(b / a for a, b in zip(engine.seconds, naive.seconds, strict=True))


def surprisals_apart(engine: Way, naive: Way) -> float:
    """The largest relative difference of a row's surprisal."""
    apart = np.abs(engine.sums["surprisal_sum"] / naive.sums["surprisal_sum"] - 1)
    return float(np.max(apart))


def keep(result: Benchmark, out: str) -> Path:
    """Write the result as JSON below `out`; where it is. Raises UserError."""
    path = Path(out) / f"{platform.node() or 'machine'}-{result.date}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result.to_json(), indent=1) + "\n")
    except OSError as e:
        raise UserError(f"--out {out}: cannot be written: {e}") from e
    return path
