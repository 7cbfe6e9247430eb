"""Datasets of Ray Data: how far one has come, and how small its blocks are."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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
