"""python -m rsr_ray.bench: everything that is checked and measured of the engine on this machine,
in one run of some minutes.

It needs torch, transformers and numpy alone: a bare machine with a GPU and a copy of this folder
will do. Students have random weights. A part that breaks is told as such, and the next one begins.
"""

import datetime
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rsr_ray.bench.bench import R_MAX, SideBySide, surprisals_apart, times_faster
from rsr_ray.bench.machine import device_name, peak_memory
from rsr_ray.bench.models import (
    make_both,
    of_shape,
    with_caps,
    with_experts,
    with_sinks,
    with_sliding_window,
)
from rsr_ray.bench.part import GIB, Figure, Machine, Part, SkippedError, lines_of, run_part
from rsr_ray.bench.quantized import check_quantized, measure_in_4bit
from rsr_ray.bench.student import SHAPES, Shape, parameters_of, rows_of
from rsr_ray.bench.vllm import measure_vllm
from rsr_ray.engine.lm_head import sweep
from rsr_ray.engine.lm_head_reference import token_stats_reference
from rsr_ray.engine.scoring import Work, score_rows, score_tokens

ROUNDS = 2


def this_machine() -> Machine:
    import torch

    if not torch.cuda.is_available():
        torch.set_num_threads(1)
        small = replace(SHAPES["cpu"], vocabulary=8000, hidden=64, intermediate=128, layers=2)
        return Machine("cpu", {"4 layers of 256": SHAPES["cpu"]}, small, 8192, 256, small)
    large = SHAPES["cuda"]
    sizes = {
        "0.6B": replace(large, hidden=1024, layers=28, heads=16, intermediate=3072),
        "1.7B": replace(large, hidden=2048, layers=28, heads=16, intermediate=6144),
        "8B": large,
    }
    thirty_two = replace(large, hidden=5120, layers=64, heads=40, intermediate=25_600, rows=12)
    return Machine("cuda", sizes, sizes["0.6B"], 131_072, 4096, thirty_two)


def run_suite(machine: Machine, say: Callable[[str], None]) -> list[Part]:
    """Every part in turn; `say` is told each as it ends."""
    parts: dict[str, Callable[[Machine], Iterator[Figure]]] = {
        "head": measure_head,
        "against the full logits": partial(check_logits, make=of_shape),
        "experts": partial(check_logits, make=with_experts),
        "memory that runs out": check_splits,
        "a long row": measure_long_row,
        "quantized weights": check_quantized,
    }
    for name, make in (
        ("a sliding window", with_sliding_window),
        ("capped scores", with_caps),
        ("sinks", with_sinks),
    ):
        # shorter than the rows of the check
        parts[name] = partial(check_logits, make=partial(make, window=machine.window // 16))
    for name, shape in machine.sizes.items():
        parts[f"speed, {name}"] = partial(measure_speed, shape=shape, name=name)
    parts["speed in 4 bits"] = measure_in_4bit
    parts["vLLM"] = measure_vllm  # the last: it keeps memory of its own
    found = []
    for name, measure_part in parts.items():
        part = run_part(name, machine, measure_part)
        found.append(part)
        for line in lines_of(part):
            say(line)
    return found


def measure_head(machine: Machine) -> Iterator[Figure]:
    """Microseconds a position of the head and all that is made of its logits."""
    import torch

    for name, shape in machine.sizes.items():
        n = 4096 if machine.device == "cuda" else 256
        dtype = getattr(torch, shape.dtype)
        with torch.device(machine.device):
            hidden_ND = torch.randn(n, shape.hidden, dtype=dtype)
            weight_VD = torch.randn(shape.vocabulary, shape.hidden, dtype=dtype) / shape.hidden
            target_N = torch.randint(0, shape.vocabulary, (n,))

        head = partial(torch.nn.functional.linear, weight=weight_VD)
        few_ND = hidden_ND[:1024]
        ways: dict[str, tuple[int, Callable[[], Any]]] = {
            "head and statistics": (
                n,
                partial(sweep, hidden_ND, target_N, head, shape.vocabulary),
            ),
            "matrix product alone": (len(few_ND), partial(head, few_ND)),
        }
        for what, (positions, way) in ways.items():
            taken = 1e6 * seconds_of(way, machine.device) / positions
            yield Figure(f"{what}, {name}", taken, "us/position")


def seconds_of(way: Callable[[], Any], device: str) -> float:
    """The least of some times, after a first one that is not counted."""
    import torch

    taken = []
    for _ in range(4):
        begun = time.perf_counter()
        way()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    return min(taken[1:])


def check_logits(machine: Machine, make: Callable[[Shape], Any]) -> Iterator[Figure]:
    """Rows in batches against the model's own full logits, row by row, and against rows alone."""
    shape = machine.small
    student, whole = make_both(make(shape), shape.dtype, machine.device)
    ids, spans = rows_of(replace(shape, rows=12, median=500, p95=1500, longest=2048))
    together = score_tokens(student, ids, spans, Work(shape.batch_tokens))
    flips, flips_alone, moved, n, off = 0, 0, 0, 0, 0.0
    for row, span, found in zip(ids, spans, together, strict=True):
        assert found is not None
        (alone,) = score_tokens(student, [row], [span], Work(shape.batch_tokens))
        assert alone is not None
        rank, surprisal = reference(whole, row, span)
        flips += flipped(found.rank, rank)
        flips_alone += flipped(found.rank, alone.rank)
        moved += int((found.rank != alone.rank).sum())
        off = max(off, abs(float(found.surprisal.sum(dtype=np.float64) / surprisal.sum()) - 1))
        n += len(rank)
    is_exact = shape.dtype == "float32"
    yield Figure("tokens", n)
    yield Figure("ranks unlike the full logits'", flips / n, "", most=1e-3 if is_exact else None)
    # of the few tokens here, one may be at a tie
    most = 1e-3 if is_exact else 1e-4
    yield Figure("ranks unlike those of rows alone", flips_alone / n, "", most=most)
    yield Figure("the same of ranks that are not clipped", moved / n)
    yield Figure("surprisal of a row, relative error", off, "", most=1e-5 if is_exact else 1e-2)


def flipped(rank: np.ndarray, other: np.ndarray) -> int:
    """How many ranks are not the same, as rsr counts them. Unclipped, those of random weights are
    among so many near ties that bfloat16 moves one in fifty.
    """
    return int((np.minimum(rank, R_MAX) != np.minimum(other, R_MAX)).sum())


def reference(whole: Any, ids: np.ndarray, span: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks and surprisals of a row's scored tokens by the slow definition."""
    import torch

    start, stop = span.tolist()
    row_T = torch.from_numpy(ids.astype(np.int64)).to(whole.device)
    logits_TV = whole(input_ids=row_T[None], use_cache=False).logits[0, start - 1 : stop - 1]
    found = [
        token_stats_reference(logits_nV, target_n)[:2]
        for logits_nV, target_n in zip(
            logits_TV.split(256), row_T[start:stop].split(256), strict=True
        )
    ]
    rank, surprisal = (torch.cat(values).cpu().numpy() for values in zip(*found, strict=True))
    return rank, surprisal


def check_splits(machine: Machine) -> Iterator[Figure]:
    """A batch that does not fit is split, and the sums stay."""
    import torch

    if machine.device == "cpu":
        raise SkippedError("only a GPU says that a batch does not fit")
    shape = machine.small
    student, _ = make_both(of_shape(shape), shape.dtype, machine.device)
    ids, spans = rows_of(replace(shape, rows=48, median=2000, p95=4000, longest=4096))
    want = score_rows(student, ids, spans, Work(8192), R_MAX)
    torch.cuda.empty_cache()
    room = torch.cuda.memory_allocated() + GIB
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.mem_get_info()[1])
    try:
        work = Work(1 << 18)
        got = score_rows(student, ids, spans, work, R_MAX)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    off = np.abs(got["surprisal_sum"] / want["surprisal_sum"] - 1).max()
    yield Figure("splits", work.splits, "", least=1)
    yield Figure("batches afterwards", work.batch_tokens, "tokens")
    yield Figure("surprisal of a row, relative difference", float(off), "", most=1e-2)


def measure_long_row(machine: Machine) -> Iterator[Figure]:
    """One row as long as a context, with full attention, a sliding window, and sinks."""
    shape = machine.small
    rng = np.random.default_rng(0)
    row = rng.integers(0, shape.vocabulary, machine.long_row).astype(np.int32)
    span = np.array([1, len(row)], np.int32)
    yield Figure("tokens", len(row))
    for name, make in (
        ("full attention", of_shape),
        ("sliding window", partial(with_sliding_window, window=machine.window)),
        ("sinks", partial(with_sinks, window=machine.window)),
    ):
        student, _ = make_both(make(shape), shape.dtype, machine.device)
        with peak_memory(machine.device) as used:
            begun = time.perf_counter()
            score_rows(student, [row], [span], Work(shape.batch_tokens), R_MAX)
            taken = time.perf_counter() - begun
        yield Figure(f"speed, {name}", len(row) / taken, "tokens/s")
        yield Figure(f"peak above the weights, {name}", used[0] / GIB, "GiB", most=6.0)


def measure_speed(machine: Machine, shape: Shape, name: str) -> Iterator[Figure]:
    """The engine beside the naive way, as `rsr-ray bench` has them."""
    student, whole = make_both(of_shape(shape), shape.dtype, machine.device)
    parameters = parameters_of(whole)
    both = SideBySide.of(shape, parameters, student, whole, ROUNDS, machine.device)
    engine, naive = both.engine, both.naive
    ours, theirs = both.figures_of_engine, both.figures_of_naive
    share = {"8B": 0.6, "0.6B": 0.45}.get(name)
    yield Figure("speed", ours.tokens_per_second, "tokens/s")
    yield Figure("naive way", theirs.tokens_per_second, "tokens/s")
    yield Figure("engine over naive", times_faster(engine, naive), "x", least=2.5)
    yield Figure("ceiling of a matrix product", both.load.ceiling / 1e12, "TFLOP/s")
    yield Figure("share of the ceiling", ours.share_of_matmul_ceiling, "", least=share)
    yield Figure("padding", ours.padding_share)
    yield Figure("peak above the weights", ours.peak_bytes_above_weights / GIB, "GiB")
    yield Figure("surprisal of a row against naive", surprisals_apart(engine, naive))


def main() -> int:
    """Run the suite, print it and keep it as JSON; 1 where a part broke."""
    import torch
    import transformers

    machine = this_machine()
    print(f"{device_name(machine.device)}, torch {torch.__version__}", flush=True)
    parts = run_suite(machine, partial(print, flush=True))
    today = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    facts = {"date": today, "device": device_name(machine.device), **versions}
    path = Path("bench") / f"suite-{platform.node() or 'machine'}-{today}.json"
    path.parent.mkdir(exist_ok=True)
    kept = facts | {"parts": [asdict(part) for part in parts]}
    path.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"saved to {path}")
    return int(any(part.broke for part in parts))
