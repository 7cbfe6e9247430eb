"""rsr-ray bench: this engine beside the naive way, side by side in one run on this machine.

The naive way is the published script's: rows in file order, right-padded rectangles of four, the logits of every
position, a float32 copy of them, and the top 100. Both score the same rows under the same student of random
weights: the arithmetic is that of a trained one.
"""

import contextlib
import ctypes
import datetime
import gc
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsr_ray.errors import UserError
from rsr_ray.score import Work, score_rows
from rsr_ray.student import Student, load_whole
from rsr_ray.weights import check_weights, quiet

NAIVE_ROWS = 4


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A student's dimensions and the lengths it is measured on. Lengths are log-normal, a third of each row is prompt."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    dtype: str
    batch_tokens: int
    rows: int
    median: int
    p95: int
    shortest: int
    longest: int


SHAPES = {
    "cpu": Shape(
        hidden=256, layers=4, heads=4, kv_heads=2, intermediate=768, vocabulary=151_936, dtype="float32", batch_tokens=4096,
        rows=16, median=400, p95=1600, shortest=64, longest=2048,
    ),
    "cuda": Shape(
        hidden=4096, layers=36, heads=32, kv_heads=8, intermediate=12_288, vocabulary=151_936, dtype="bfloat16", batch_tokens=32_768,
        rows=64, median=2000, p95=12_000, shortest=64, longest=32_768,
    ),
}  # fmt: skip


def bench(out: str, rounds: int) -> dict[str, Any]:
    """Measure, and keep the result as JSON under `out`, one file a machine and day. Raises UserError."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = SHAPES[device]
    if device == "cpu":
        torch.set_num_threads(1)  # as a replica has; both ways alike
    ids, spans = rows_of(shape)
    with tempfile.TemporaryDirectory() as folder:
        parameters = make_student(shape, folder)
        check_weights(folder, folder, trust_remote_code=False)
        student = Student(folder, shape.dtype, device)
        model = whole_model(folder, shape.dtype, device)
    work = Work(shape.batch_tokens)
    ways: dict[str, Callable[[], Any]] = {
        "engine": lambda: score_rows(student, ids, spans, work, 100),
        "naive": lambda: naive_rows(model, ids, spans, 100),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    peak: dict[str, list[int]] = {name: [] for name in ways}
    sums: dict[str, Any] = {}
    ceiling: list[float] = []
    score_rows(student, ids[:2], spans[:2], Work(shape.batch_tokens), 100)  # what happens once is not measured
    with torch.inference_mode():
        for _ in range(rounds):
            ceiling.append(matmul_flops_per_second(shape, device))
            for name, way in ways.items():
                with peak_memory(device) as used:
                    begun = time.perf_counter()
                    sums[name] = way()
                    seconds[name].append(time.perf_counter() - begun)
                peak[name].append(used[0])
    lengths = np.array([len(row) for row in ids])
    n_scored = int(sum(s[1] - s[0] for s in spans))
    flops = necessary_flops(shape, parameters, lengths, n_scored)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    in_order = [lengths[i : i + NAIVE_ROWS] for i in range(0, len(lengths), NAIVE_ROWS)]
    result = {
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        "device": torch.cuda.get_device_name() if device == "cuda" else f"{_cpu_name()}, {torch.get_num_threads()} threads",
        "shape": asdict(shape),
        "parameters": parameters,
        "rounds": rounds,
        "tokens": int(lengths.sum()),
        "scored_tokens": n_scored,
        "matmul_ceiling_tflops": statistics.median(ceiling) / 1e12,
        "necessary_tflop": flops / 1e12,
        "engine_over_naive": statistics.median(b / a for a, b in zip(seconds["engine"], seconds["naive"], strict=True)),
        "largest_relative_difference_of_surprisal": float(np.max(np.abs(sums["engine"]["surprisal_sum"] / sums["naive"]["surprisal_sum"] - 1))),
        "rank_sums_that_differ": int(np.sum(sums["engine"]["rank_sum"] != sums["naive"]["rank_sum"])),
    }
    padding = {"engine": 1 - work.positions / work.padded, "naive": 1 - lengths.sum() / sum(len(b) * b.max() for b in in_order)}
    for name in ways:
        result[name] = {
            "seconds": median[name],
            "trajectories_per_second": len(ids) / median[name],
            "tokens_per_second": int(lengths.sum()) / median[name],
            "scored_tokens_per_second": n_scored / median[name],
            "padding_share": float(padding[name]),
            "peak_bytes_above_weights": max(peak[name]),
            "share_of_matmul_ceiling": flops / median[name] / statistics.median(ceiling),
        }
    if device == "cpu":
        result["profile"] = profile(ways["engine"])
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
        path = Path(out) / f"{platform.node() or 'machine'}-{result['date']}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
    except OSError as e:
        raise UserError(f"--out {out}: cannot be written: {e}") from e
    return result | {"file": str(path)}


def rows_of(shape: Shape) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Random ids and one span a row, the same every time."""
    rng = np.random.default_rng(0)
    sigma = np.log(shape.p95 / shape.median) / 1.645
    lengths = np.clip(np.exp(rng.normal(np.log(shape.median), sigma, shape.rows)), shape.shortest, shape.longest).astype(int)
    ids = [rng.integers(0, shape.vocabulary, n).astype(np.int32) for n in lengths]
    return ids, [np.array([n // 3, n], np.int32) for n in lengths]


def make_student(shape: Shape, folder: str) -> int:
    """Save a Qwen3 of this shape with random weights; returns the number of parameters outside the embeddings."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.intermediate, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.hidden // shape.heads,
        max_position_embeddings=max(shape.longest, 131_072), tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, shape.dtype))
    try:
        model = Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    with quiet():
        model.save_pretrained(folder)
    return sum(p.numel() for p in model.model.layers.parameters())


def whole_model(folder: str, dtype: str, device: str) -> Any:
    import torch

    return load_whole(folder, dtype).to(torch.device(device)).eval()


def naive_rows(model: Any, ids: list[np.ndarray], spans: list[np.ndarray], r_max: int) -> dict[str, np.ndarray]:
    """Rank and surprisal sums the naive way."""
    import torch

    rank_sums, surprisal_sums = [], []
    for start in range(0, len(ids), NAIVE_ROWS):
        rows, row_spans = ids[start : start + NAIVE_ROWS], spans[start : start + NAIVE_ROWS]
        padded = np.zeros((len(rows), max(map(len, rows))), np.int64)
        mask = np.zeros_like(padded)
        for b, row in enumerate(rows):
            padded[b, : len(row)], mask[b, : len(row)] = row, 1
        ids_BT = torch.from_numpy(padded).to(model.device)
        with torch.inference_mode():
            logits_BTV = model(input_ids=ids_BT, attention_mask=torch.from_numpy(mask).to(model.device), use_cache=False).logits
            log_p_BTV = torch.log_softmax(logits_BTV.to(torch.float32, copy=True), dim=-1)
            for b, (first, last) in enumerate(row_spans):
                target_N = ids_BT[b, first:last]
                log_p_NV = log_p_BTV[b, first - 1 : last - 1]
                surprisal_sums.append(-log_p_NV.gather(1, target_N[:, None]).double().sum().item())
                top_N100 = log_p_NV.topk(r_max, dim=-1).indices
                hit_N100 = top_N100 == target_N[:, None]
                rank_N = torch.where(hit_N100.any(1), hit_N100.int().argmax(1) + 1, r_max)
                rank_sums.append(int(rank_N.sum()))
    return {"rank_sum": np.array(rank_sums), "surprisal_sum": np.array(surprisal_sums)}


def necessary_flops(shape: Shape, parameters: int, lengths: np.ndarray, n_scored: int) -> float:
    """Floating point operations no implementation can save: layers, causal attention, the head at scored positions."""
    attention = shape.layers * 4 * (lengths.astype(float) ** 2).sum() / 2 * shape.hidden
    return 2.0 * parameters * lengths.sum() + attention + 2.0 * shape.hidden * shape.vocabulary * n_scored


def matmul_flops_per_second(shape: Shape, device: str) -> float:
    """What this machine's matrix product reaches right now, on matrices of the student's own size."""
    import torch

    n, k, m = (4096, shape.hidden, shape.vocabulary // 8) if device == "cpu" else (8192, shape.hidden, shape.intermediate * 2)
    a = torch.randn(n, k, device=device, dtype=getattr(torch, shape.dtype))
    b = torch.randn(m, k, device=device, dtype=getattr(torch, shape.dtype)).T
    best = float("inf")
    for _ in range(4):
        begun = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return 2.0 * n * k * m / best


@contextlib.contextmanager
def peak_memory(device: str) -> Iterator[list[int]]:
    """A list that holds, afterwards, the peak of memory above what was taken before, in bytes."""
    import torch

    out: list[int] = []
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield out
        torch.cuda.synchronize()
        out.append(torch.cuda.max_memory_allocated() - before)
        return
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)  # what the C library keeps of freed memory would hide what comes next
    before, highest, stop = _resident(), [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.002):
            highest[0] = max(highest[0], _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield out
    finally:
        stop.set()
        watcher.join()
    out.append(max(0, highest[0] - before))


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _cpu_name() -> str:
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo") as file:
        return next(line for line in file if line.startswith("model name")).split(":")[1].strip()
    return platform.processor() or "CPU"


def profile(way: Callable[[], Any]) -> list[dict[str, Any]]:
    """The five operations that take most of the time, with their shares."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    with record(activities=[ProfilerActivity.CPU]) as recorded:
        way()
    averages = recorded.key_averages()
    total = sum(event.self_cpu_time_total for event in averages)
    top = sorted(averages, key=lambda event: -event.self_cpu_time_total)[:5]
    return [{"operation": event.key, "share": event.self_cpu_time_total / total} for event in top]


def print_bench(result: dict[str, Any]) -> None:
    """The figures as a terminal table."""
    from rich.table import Table

    from rsr_ray.report import console

    out = console()
    table = Table(title=f"{result['device']}: {result['tokens']:,} tokens, {result['scored_tokens']:,} scored", title_justify="left")
    for name in ("", "engine", "naive"):
        table.add_column(name, justify="left" if not name else "right")
    rows: list[tuple[str, str, Callable[[float], str]]] = [
        ("trajectories/s", "trajectories_per_second", lambda v: f"{v:,.2f}"),
        ("tokens/s", "tokens_per_second", lambda v: f"{v:,.0f}"),
        ("scored tokens/s", "scored_tokens_per_second", lambda v: f"{v:,.0f}"),
        ("padding", "padding_share", lambda v: f"{v:.1%}"),
        ("peak above weights", "peak_bytes_above_weights", lambda v: f"{v / 2**20:,.0f} MiB"),
        ("share of the matmul ceiling", "share_of_matmul_ceiling", lambda v: f"{v:.1%}"),
    ]
    for title, key, show in rows:
        table.add_row(title, show(result["engine"][key]), show(result["naive"][key]))
    out.print(table)
    out.print(
        f"engine over naive: {result['engine_over_naive']:.2f} x; matmul ceiling {result['matmul_ceiling_tflops']:.3f} TFLOP/s", highlight=False
    )
    for line in result.get("profile", []):
        out.print(f"  {line['share']:6.1%}  {line['operation']}", highlight=False)
    out.print(f"kept as {result['file']}", highlight=False)
