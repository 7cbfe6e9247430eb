"""What a run would cost."""

from dataclasses import dataclass

import numpy as np

from rsr_ray.errors import counted
from rsr_ray.run.doctor.engine import Speed
from rsr_ray.run.doctor.findings import Findings
from rsr_ray.run.resources import Resources
from rsr_ray.student.facts import StudentFacts, n_parameters


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The work of a run, about."""

    trajectories: float
    tokens: float
    flop: float
    replicas: int
    hours: float | None  # None where the speed of such a replica was not measured


def estimate_cost(
    findings: Findings,
    facts: StudentFacts,
    resources: Resources,
    n_rows: float,
    ids: list[np.ndarray],
    speed: Speed | None,
) -> Cost:
    """The cost of `n_rows` rows that are as long as those in `ids`."""
    tokens = n_rows * float(np.mean([len(row) for row in ids]))
    flop = 2.0 * n_parameters(facts.source) * tokens
    said = (
        f"about {n_rows:,.0f} trajectories, {tokens / 1e6:,.1f} M tokens, {flop / 1e15:,.3g} PFLOP"
    )
    hours = None
    device = "cuda" if resources.gpus_per_replica else "cpu"
    if speed is not None and speed.device == device:
        hours = tokens / speed.tokens_per_second / resources.replicas / 3600
        needed = f"{hours:,.1f} hours" if hours > 1 else f"{hours * 60:,.1f} minutes"
        measured = f"{speed.tokens_per_second:,.0f} tokens/s per replica, from a short sample"
        findings.ok(
            "estimate", f"{said}; {needed} on {counted(resources.replicas, 'replica')} ({measured})"
        )
    else:
        findings.warn(
            "estimate",
            f"{said}; no estimate of the time: the speed of a GPU replica was not measured here",
        )
    return Cost(
        trajectories=n_rows, tokens=tokens, flop=flop, replicas=resources.replicas, hours=hours
    )
