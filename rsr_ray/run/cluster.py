"""The Ray cluster a run works on: where it is, how it is connected to, and how that ends."""

import gc
import logging
import os
import re
import socket
from types import TracebackType
from typing import Self

from rsr_ray.errors import UserError
from rsr_ray.run.apart import Apart
from rsr_ray.run.failure import cause_of, is_rays
from rsr_ray.watch import on_ray

# What a store under load answers; pyarrow and botocore have tried ten times themselves before it
# gets here.
RETRIED = [
    r"AWS Error "
    r"(INTERNAL_FAILURE|NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|REQUEST_TIMEOUT)",
    r"HTTP status 5\d\d",
    "Connection reset",
]
# Bytes that a task of a shuffle takes together; it needs a few times as many. Ray's own is 1 GiB.
SHUFFLED = 256 * 1024**2
KEPT = "Finished units are kept: rerun the same command to resume."


class Cluster:
    """The cluster of `address` or RAY_ADDRESS, or a local one that ends with the command.

    It is connected to when it is first needed: a run that finds nothing to do starts no Ray. Inside
    `with` what fails on the cluster becomes a UserError or a RunError of one line; a RunError's
    ends with `after_failure`. One that is entered again within itself stays connected until the
    outermost `with` ends.
    """

    def __init__(
        self,
        address: str | None,
        log: str = "text",
        after_failure: str = KEPT,
        *,
        verbose: bool = False,
    ):
        self.address = address or os.environ.get("RAY_ADDRESS") or "local"
        self.log = log
        self.after_failure = after_failure
        self.verbose = verbose
        self._entered = 0
        self._started_here = False
        self._apart: Apart | None = None

    @property
    def is_elsewhere(self) -> bool:
        """Whether it is more than this command's own: named, or connected to already."""
        return self.address != "local" or on_ray()

    def connect(self) -> None:
        """Connect, unless this process is connected already.

        Raises UserError where there is no such cluster.
        """
        if not self.verbose and not on_ray() and self._apart is None:
            self._apart = Apart()
        import ray.data

        if not ray.is_initialized():
            # also where it ends half-way: what was started of it has to end
            self._started_here = True
            _init(self.address, self.log, verbose=self.verbose)
            node = ray._private.worker._global_node
            if self._apart is not None and node is not None:
                self._apart.keep_in(node.get_logs_dir_path())
        if not self.verbose:
            _quiet()
        context = ray.data.DataContext.get_current()
        context.print_on_execution_start = False
        context.enable_progress_bars = self.verbose
        context.retried_map_errors, context.max_map_retries = RETRIED, 5
        context.shuffle_input_batch_bytes = SHUFFLED

    def __enter__(self) -> Self:
        self._entered += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._entered -= 1
        try:
            if error is not None and is_rays(error):
                cause = cause_of(error, self.after_failure)
                # The traceback keeps the execution, and with it the replicas and their GPUs, alive
                # until it is collected.
                error.__traceback__ = None
                del error, trace
                gc.collect()
                raise cause from None
        finally:
            if self._started_here and not self._entered:
                import ray

                ray.shutdown()
                self._started_here = False
            if self._apart is not None and not self._entered:
                self._apart.end()
                self._apart = None


def count_replicas(named: str) -> int | None:
    """Replicas of this job that are alive: actors of Ray Data whose operator has this name. None
    where there is no Ray, or it does not say.
    """
    if not on_ray():
        return None
    import ray
    from ray._private.state import state

    job = ray.JobID(bytes.fromhex(ray.get_runtime_context().get_job_id()))
    try:
        found = state.actor_table(None, job, "ALIVE")
    except Exception:  # the head is busy, or gone: the run itself will say so
        return None
    return sum(named in actor["ActorClassName"] for actor in found.values())


def _init(address: str, log: str, *, verbose: bool) -> None:
    import ray

    logs = ray.LoggingConfig(encoding="JSON") if log == "json" else None
    # Ray's own handler of SIGTERM exits at once, and no lease would be let go.
    ray._private.utils.set_sigterm_handler = lambda _: None
    # This process was told by it (cli.run); workers write a trace of C++ where they crash.
    os.environ.pop("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", None)
    try:
        if match := re.fullmatch(r"(.+):(\d+)", address.split("://")[-1]):
            # Ray itself tries for two minutes
            socket.create_connection((match[1], int(match[2])), timeout=10).close()
        ray.init(
            address=address,
            include_dashboard=False if address == "local" else None,
            log_to_driver=False,
            logging_config=logs,
            logging_level=logging.INFO if verbose else logging.ERROR,
        )
    except (OSError, ValueError, RuntimeError, SystemExit) as e:
        raise UserError(f"no Ray cluster at {address}: {' '.join(str(e).split())[:200]}") from e


def _quiet() -> None:
    """What Ray logs of its inner life stays in its own log files."""
    for name in ("ray", "ray.data"):
        logger = logging.getLogger(name)
        logger.handlers = [
            h
            for h in logger.handlers
            if not isinstance(h, logging.StreamHandler) or isinstance(h, logging.FileHandler)
        ]
        logger.propagate = False
    logging.getLogger("ray").addHandler(logging.NullHandler())
