"""The Ray cluster a run works on: where it is, what of it the run takes, and what an error there means."""

import gc
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
import ray.data
from ray.exceptions import RayActorError, RayError, RayTaskError

from rsr_ray.config import ScoreConfig
from rsr_ray.errors import RunError, StoreError, UserError, one_line

# A replica leaves half of its CPU free: with whole ones, replicas could take every CPU of a cluster and the tasks that feed
# them would never start (ray#44687). Smaller shares start more workers at once than the CPUs can import a library in.
REPLICA_CPUS = 0.5
TASK_CPUS = 0.5
# What a store under load answers; pyarrow and botocore have tried ten times themselves before it gets here.
RETRIED = [r"AWS Error (INTERNAL_FAILURE|NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|REQUEST_TIMEOUT)", r"HTTP status 5\d\d", "Connection reset"]
KEPT = "Finished units are kept: run the same command again to go on."
ANSI = re.compile(r"\x1b\[[0-9;]*m")
BATCH_TOKENS = {"cuda": 32768, "cpu": 4096}


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a run takes of the cluster."""

    replicas: int
    gpus_per_replica: int
    dtype: str
    batch_tokens: int


def take(config: ScoreConfig) -> Resources:
    """The run's share of the connected cluster: what the config says, else all of it."""
    have = ray.cluster_resources()
    gpus, cpus = int(have.get("GPU", 0)), have.get("CPU", 0.0)
    if cpus < REPLICA_CPUS + TASK_CPUS:
        raise UserError(f"the Ray cluster has {cpus:g} CPUs; at least 1 is needed")
    each = config.gpus_per_replica or (1 if gpus else 0)
    replicas = config.replicas or (max(1, gpus // each) if each else int(cpus))
    room = room_for(each)
    if replicas > room:
        kind = f"{gpus} GPUs and " if gpus else ""
        logging.getLogger(__name__).warning("%d replicas asked for; %s%g CPUs hold %d", replicas, kind, cpus, room)
    return Resources(
        replicas=replicas,
        gpus_per_replica=each,
        dtype=config.dtype if config.dtype != "auto" else ("bfloat16" if each else "float32"),
        batch_tokens=config.batch_tokens or BATCH_TOKENS["cuda" if each else "cpu"],
    )


def room_for(gpus_per_replica: int) -> int:
    """How many replicas fit into the connected cluster as it is now, beside a task that feeds them."""
    have = ray.cluster_resources()
    room = int((have.get("CPU", 0.0) - TASK_CPUS) / REPLICA_CPUS)
    return min(room, int(have.get("GPU", 0)) // gpus_per_replica) if gpus_per_replica else room


@contextmanager
def one_block_a_row() -> Iterator[None]:
    """Datasets made inside keep every row that a stage yields as a block of its own.

    Repartitioning to one row a block does the same, but its tasks take a whole CPU each and wait forever beside
    replicas that fill a small cluster.
    """
    context = ray.data.DataContext.get_current()
    usual, context.target_max_block_size = context.target_max_block_size, 1  # bytes
    try:
        yield
    finally:
        context.target_max_block_size = usual


@contextmanager
def connect(ray_address: str | None, log: str = "text", after_failure: str = KEPT) -> Iterator[None]:
    """The cluster of `ray_address` or RAY_ADDRESS, or a local one for the time of the command.

    What fails on the cluster leaves here as UserError or RunError, in one line; a RunError's ends with `after_failure`.
    """
    address = ray_address or os.environ.get("RAY_ADDRESS") or "local"
    started_here = not ray.is_initialized()
    try:
        if started_here:
            _init(address, log)
        _quiet()
        context = ray.data.DataContext.get_current()
        context.print_on_execution_start = False
        context.retried_map_errors, context.max_map_retries = RETRIED, 5
        yield
    except RayError as e:
        # The traceback keeps the execution, and with it the replicas and their GPUs, alive until it is collected.
        cause = _cause(e, after_failure)
        del e
        gc.collect()
        raise cause from None
    finally:
        if started_here:
            ray.shutdown()


def _init(address: str, log: str) -> None:
    logs = ray.LoggingConfig(encoding="JSON") if log == "json" else None
    try:
        if match := re.fullmatch(r"(.+):(\d+)", address.split("://")[-1]):
            socket.create_connection((match[1], int(match[2])), timeout=10).close()  # Ray itself tries for two minutes
        ray.init(address=address, include_dashboard=False if address == "local" else None, log_to_driver=False, logging_config=logs)
        if logs:  # Ray Data's progress has a console handler of its own, which writes text
            data = logging.getLogger("ray.data")
            data.handlers = [h for h in data.handlers if not isinstance(h, logging.StreamHandler) or isinstance(h, logging.FileHandler)]
            data.propagate = True
    except (OSError, ValueError, RuntimeError, SystemExit) as e:
        raise UserError(f"no Ray cluster at {address}: {' '.join(str(e).split())[:200]}") from e


def _cause(e: BaseException, after_failure: str) -> Exception:
    """The error a user can act on, behind Ray's wrappers. What a worker raised is kept by Ray as text only."""
    raised = raised_in(str(e)) if isinstance(e, RayTaskError | RayActorError) else []
    ours = [error for error in raised if error[0] in ("UserError", "StoreError", "RunError")]
    kind, message = (ours or raised or [(type(e).__name__, one_line(str(e), 500))])[-1 if ours else 0]
    if kind == "UserError":
        return UserError(message)
    if kind == "StoreError":
        return StoreError(message)
    said = message if kind == "RunError" else f"{kind}: {message}"
    return RunError(f"{said.rstrip('.')}. {after_failure}")


def raised_in(text: str) -> list[tuple[str, str]]:
    """Kind and message of each exception in the text of a trace, the first cause first.

    A message is what follows the last frame: neither a frame, nor its source, nor the carets below it.
    """
    found = []
    for part in re.split(r"\n(?:The above exception was|During handling of)[^\n]*", ANSI.sub("", text)):
        # Of what is not indented the trace's own lines begin with its title, a frame with two spaces.
        _, _, rest = part.rpartition('\n  File "')
        match = re.search(r"^(?:\w+\.)*(\w+)(?:: (.*))?$", rest or part, re.MULTILINE)
        named = re.search(r"^(?:\w+\.)*(\w+(?:Error|Exception|Interrupt|Exit))(?:: ([\s\S]*))?", rest or part, re.MULTILINE)
        if best := named or match:
            found.append((best[1], one_line(best[2], 500) if best[2] else ""))
    return found


def _quiet() -> None:
    """Ray logs the stack trace of a failed task on the console; it stays in Ray's own log files."""
    for name in ("ray.data.exceptions", "ray.data._internal.execution.streaming_executor_state"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
