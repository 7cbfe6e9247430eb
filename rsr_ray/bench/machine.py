"""What a machine can do at most, what it takes, and where its time goes."""

import contextlib
import ctypes
import gc
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from rsr_ray.bench.figures import Operation
from rsr_ray.bench.student import Shape


def matmul_flops_per_second(shape: Shape, device: str) -> float:
    """What this machine's matrix product reaches now, on matrices of the student's size."""
    import torch

    n, k, m = (
        (4096, shape.hidden, shape.vocabulary // 8)
        if device == "cpu"
        else (8192, shape.hidden, shape.intermediate * 2)
    )
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
    before = _resident()
    highest = 0
    stop = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not stop.wait(0.002):
            highest = max(highest, _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield out
    finally:
        stop.set()
        watcher.join()
    out.append(max(0, highest - before))


def device_name(device: str) -> str:
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{_cpu_name()}, {torch.get_num_threads()} threads"


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _cpu_name() -> str:
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo") as file:
        return next(line for line in file if line.startswith("model name")).split(":")[1].strip()
    return platform.processor() or "CPU"


def profile(way: Callable[[], Any]) -> list[Operation]:
    """The five operations that take most of the time, with their shares."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    with record(activities=[ProfilerActivity.CPU]) as recorded:
        way()
    averages = recorded.key_averages()
    total = sum(event.self_cpu_time_total for event in averages)
    top = sorted(averages, key=lambda event: -event.self_cpu_time_total)[:5]
    return [Operation(event.key, event.self_cpu_time_total / total) for event in top]
