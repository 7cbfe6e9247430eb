"""What a run takes of the cluster it works on."""

import logging
import math
from dataclasses import dataclass

from rsr_ray.config.score import ScoreConfig
from rsr_ray.errors import UserError
from rsr_ray.student.facts import n_parameters

# A replica leaves half of its CPU free: with whole ones, replicas could take every CPU of a cluster
# and the tasks that feed them would never start (ray#44687). Smaller shares start more workers at
# once than the CPUs can import a library in.
REPLICA_CPUS = 0.5
TASK_CPUS = 0.5
BATCH_TOKENS = {"cuda": 32768, "cpu": 4096}
AUTO_DTYPES = {"cuda": "bfloat16", "cpu": "float32"}
# A replica takes seconds to start: by default there are no more of them than have work for so long,
# at about such a speed.
WORTHWHILE_SECONDS = 10
BYTES_PER_TOKEN = 4  # of a corpus, about
FLOPS = {"cuda": 1e14, "cpu": 2e10}  # floating-point operations a second


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a run takes of the cluster."""

    replicas: int
    gpus_per_replica: int
    dtype: str
    batch_tokens: int


def flops_of(source: str, n_bytes: int) -> float:
    """Floating-point operations that shards of `n_bytes` take under a student, about."""
    return 2 * n_parameters(source) * n_bytes / BYTES_PER_TOKEN


def suited_dtype(config: ScoreConfig) -> str:
    """What `auto` is on the connected cluster."""
    import ray

    return AUTO_DTYPES[
        "cuda" if config.gpus_per_replica or ray.cluster_resources().get("GPU") else "cpu"
    ]


def take(config: ScoreConfig, flops: float | None = None) -> Resources:
    """The run's share of the connected cluster: what the config says, else all of it.

    Where the work is known, `flops` floating-point operations, no replica is started that would
    have next to none of it.
    """
    import ray

    have = ray.cluster_resources()
    gpus, cpus = int(have.get("GPU", 0)), have.get("CPU", 0.0)
    if cpus < REPLICA_CPUS + TASK_CPUS:
        raise UserError(f"the Ray cluster has {cpus:g} CPUs; at least 1 is needed")
    each = config.gpus_per_replica or (1 if gpus else 0)
    kind = "cuda" if each else "cpu"
    replicas = config.replicas or (max(1, gpus // each) if each else int(cpus))
    if flops is not None and config.replicas is None:
        replicas = min(
            replicas, math.ceil(flops / (FLOPS[kind] * max(each, 1) * WORTHWHILE_SECONDS)) or 1
        )
    room = room_for(each)
    if replicas > room:
        have_gpus = f"{gpus} GPUs and " if gpus else ""
        logging.getLogger(__name__).warning(
            "%d replicas requested; %s%g CPUs have room for %d", replicas, have_gpus, cpus, room
        )
    return Resources(
        replicas=replicas,
        gpus_per_replica=each,
        dtype=suited_dtype(config) if config.dtype == "auto" else config.dtype,
        batch_tokens=config.batch_tokens or BATCH_TOKENS[kind],
    )


def room_for(gpus_per_replica: int) -> int:
    """How many replicas fit into the connected cluster now, beside a task that feeds them."""
    import ray

    have = ray.cluster_resources()
    room = int((have.get("CPU", 0.0) - TASK_CPUS) / REPLICA_CPUS)
    return min(room, int(have.get("GPU", 0)) // gpus_per_replica) if gpus_per_replica else room
