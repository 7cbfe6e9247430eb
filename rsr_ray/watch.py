"""What a task tells of itself while it works: counters that Prometheus scrapes from Ray, and
structured logs.
"""

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
            f"the process of a task died {n} times in a row (out of memory? See Ray's logs)"
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


class Counters:
    """A replica's work so far, for Prometheus:

    `ray_rsr_*` on the metrics port of its Ray node, while it lives.
    """

    def __init__(self, student: str):
        from ray.util.metrics import Counter, Gauge

        def tagged(kind: type, name: str, meaning: str, *more: str) -> Any:
            metric = kind(f"rsr_{name}", meaning, ("student", *more))
            metric.set_default_tags({"student": student})
            return metric

        self.trajectories = tagged(Counter, "trajectories", "trajectories scored")
        self.tokens = tagged(
            Counter,
            "tokens",
            "tokens that went through the student, by kind: scored or prompt",
            "kind",
        )
        self.rejects = tagged(Counter, "rejects", "rows rejected, by reason", "reason")
        self.tokens_per_second = tagged(
            Gauge,
            "tokens_per_second",
            "tokens per second of the replica's last work unit, prompts included",
        )
        self.padding_share = tagged(
            Gauge,
            "padding_share",
            "share of padding in the positions of the replica's last work unit",
        )

    def add(self, unit: dict[str, Any], rejects: dict[str, int]) -> None:
        """Count a unit that was written, by its bookkeeping."""
        kinds = {"scored": unit["n_tokens"], "prompt": unit["n_prompt_tokens"]}
        if unit["n_scored"]:
            self.trajectories.inc(unit["n_scored"])
        for kind, n in kinds.items():
            if n:
                self.tokens.inc(n, {"kind": kind})
        for reason, n in rejects.items():
            self.rejects.inc(n, {"reason": reason})
        if unit["padded"]:
            self.tokens_per_second.set(sum(kinds.values()) / unit["seconds"])
            self.padding_share.set(1 - unit["positions"] / unit["padded"])
