"""Datasets of Ray Data: how far one has come, what they begin with, how small their blocks are."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

MOST = 1000  # a block holds at most this part of a run, where it holds more than one object
ROUNDS = 8  # and leaves at least so many blocks of its size for each worker


def shared_out(objects: pa.Table, workers: int = 1) -> list[pa.Table]:
    """Rows of objects to be worked on, with their `size`, in blocks, in their order.

    A block costs the driver milliseconds and tens of kilobytes before anything is read, so small
    objects of many share one. A worker takes a block at a time, and does it again as a whole if it
    dies: none is more of the work than a `MOST`th, but for one larger object, and towards the end
    they get smaller, so that all workers end together. Up to `MOST` objects each has its own.
    """
    n = objects.num_rows
    sizes = objects["size"].to_numpy()
    # an object is work for its bytes, and for being one
    share = (sizes / max(1, sizes.sum()) + 1 / max(1, n)) / 2
    ends = np.cumsum(share)
    blocks, start = [], 0
    while start < n:
        done = ends[start] - share[start]
        most = min(1 / MOST, (1 - done) / (ROUNDS * workers))
        stop = max(start + 1, int(np.searchsorted(ends, done + most, "right")))
        blocks.append(objects.slice(start, stop - start))
        start = stop
    return blocks


def share_done(function: str) -> float | None:
    """Of the blocks that `function` has to map in this job's running dataset, the share that is
    done; None where Ray does not tell.
    """
    import ray
    from ray.data._internal.stats import get_or_create_stats_actor  # has no public name in Ray 2.60

    try:
        job = ray.get_runtime_context().get_job_id()
        datasets: Any = ray.get(get_or_create_stats_actor().get_datasets.remote(job), timeout=1)
    except Exception:  # what is shown of a command must not stop it
        return None
    for dataset in datasets.values():
        for name, operator in dataset["operators"].items():
            if dataset["state"] == "RUNNING" and f"({function})" in name and operator["total"]:
                return min(1.0, operator["progress"] / operator["total"])
    return None


@contextmanager
def one_block_a_row() -> Iterator[None]:
    """Datasets made inside keep every row that a stage yields as a block of its own.

    Repartitioning to one row a block does the same, but its tasks take a whole CPU each and wait
    forever beside replicas that fill a small cluster.
    """
    import ray.data

    context = ray.data.DataContext.get_current()
    usual, context.target_max_block_size = context.target_max_block_size, 1  # bytes
    try:
        yield
    finally:
        context.target_max_block_size = usual
