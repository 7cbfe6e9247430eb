"""What a task tells of itself while it works: structured logs, and how often it was started."""

import logging
import sys
from typing import Any

from rsr_ray.credentials import Scrub
from rsr_ray.errors import RunError

ATTEMPTS = 10  # of a task whose process dies
log = logging.getLogger("rsr_ray")
log.addFilter(Scrub())


def attempt() -> int:
    """How often this task was started before, because the process or machine it ran on died; 0
    outside of Ray.

    Raises RunError where that was too often to be a machine's fault: Ray would go on forever.
    """
    if not on_ray():
        return 0
    import ray

    worker: Any = ray._private.worker.global_worker
    n = worker.core_worker.get_current_task_attempt_number()  # has no public name in Ray 2.60
    if n >= ATTEMPTS:
        raise RunError(
            f"the process of a task died {n} times in a row, probably for want of memory (Ray's "
            "logs say why); lower --unit-rows or --replicas and rerun"
        )
    return n


def in_task() -> bool:
    """Whether this process works on a task of Ray's, which is done again where the process ends."""
    if not on_ray():
        return False
    import ray

    return ray.get_runtime_context().get_task_id() is not None


def on_ray() -> bool:
    """Whether this process is connected to a Ray cluster."""
    if "ray" not in sys.modules:  # whose import takes a second
        return False
    import ray

    return ray.is_initialized()
