"""What a run would cost.

A range of times comes from how much the tokens per byte of the sampled rows vary, from the slowest
and the fastest of the timed batches, and from how long a run takes to start.
"""

import math
from dataclasses import dataclass

import numpy as np

from rsr_ray.config.score import ScoreConfig
from rsr_ray.errors import counted
from rsr_ray.run.display import duration
from rsr_ray.run.doctor.engine import Speed
from rsr_ray.run.doctor.findings import Findings
from rsr_ray.run.doctor.sample import EncodedSample, Sample
from rsr_ray.run.resources import Resources
from rsr_ray.student.facts import StudentFacts, n_parameters

# Seconds that a run takes beside scoring, at least and at most: imports, Ray, loading the student.
START_HERE = (3.0, 15.0)
START_ON_RAY = (10.0, 60.0)
FEWEST = 8  # sampled rows below which the spread of their lengths is not known
UNSURE = 2.0  # the factor that the tokens may be off by then
STANDARD_ERRORS = 2.0
MARGIN = 1.1  # for what the sample does not show


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is left to score, from a sample of rows."""

    trajectories: float
    tokens: float
    off: float  # the factor, 1 or more, by which the tokens may be more or fewer
    shards: int

    @classmethod
    def of(cls, sample: Sample, encoded: EncodedSample, n_bytes: int, shards: int) -> "Load":
        """Of `n_bytes` of the corpus, in `shards`."""
        tokens = np.array([0 if ids is None else len(ids) for ids in encoded.of_rows], float)
        sizes = np.array(sample.row_bytes[: len(tokens)])
        a_byte = tokens.sum() / sizes.sum()
        off = UNSURE
        if len(tokens) >= FEWEST:
            residuals = tokens - a_byte * sizes
            error = math.sqrt((residuals**2).sum() / (len(tokens) - 1) / len(tokens))
            off = MARGIN * math.exp(STANDARD_ERRORS * error / tokens.mean())
        return cls(
            trajectories=n_bytes / sizes.mean(), tokens=n_bytes * a_byte, off=off, shards=shards
        )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The work of a run, about. Hours are None if the speed of such a replica was not measured."""

    trajectories: float
    tokens: float
    flop: float
    replicas: int
    hours: float | None
    hours_low: float | None
    hours_high: float | None

    @property
    def span(self) -> str:
        return in_words(self.hours_low, self.hours_high)


def in_words(low: float | None, high: float | None) -> str:
    """A range of hours."""
    if low is None or high is None:
        return "no estimate of the time"
    if not high:
        return "nothing left to score"
    return f"{duration(3600 * low)} to {duration(3600 * high)}"


def estimate_cost(
    findings: Findings,
    config: ScoreConfig,
    facts: StudentFacts,
    resources: Resources,
    load: Load,
    speed: Speed | None,
    is_here: bool,
) -> Cost:
    """The cost of a load; `is_here` without Ray."""
    cost = _cost(facts, resources, load, speed, is_here)
    said = (
        f"about {cost.trajectories:,.0f} trajectories to score, {cost.tokens / 1e6:,.1f} M tokens, "
        f"{cost.flop / 1e15:,.3g} PFLOP"
    )
    if not load.shards:
        findings.ok("estimate", "nothing left to score: all of the corpus is in the store")
    elif speed is None or cost.hours is None:
        findings.warn(
            "estimate",
            f"{said}; no estimate of the time: the speed of a GPU replica was not measured here",
        )
    else:
        findings.ok(
            "estimate",
            f"{said}; {cost.span} on {counted(cost.replicas, 'replica')}: tokens within a "
            f"factor of {load.off:.2f}, {speed.slowest:,.0f} to {speed.fastest:,.0f} tokens/s per "
            f"replica, timed on rows of up to {speed.longest_row:,} tokens{_without(config)}",
        )
    return cost


def _cost(
    facts: StudentFacts, resources: Resources, load: Load, speed: Speed | None, is_here: bool
) -> Cost:
    replicas = max(1, min(resources.replicas, load.shards))  # a shard is never shared
    device = "cuda" if resources.gpus_per_replica else "cpu"
    hours = low = high = None
    if not load.shards:
        hours = low = high = 0.0
    elif speed is not None and speed.device == device:
        start = START_HERE if is_here else START_ON_RAY
        at = load.tokens / replicas / 3600
        low = at / load.off / speed.fastest + start[0] / 3600
        high = at * load.off / speed.slowest + start[1] / 3600
        hours = at / speed.tokens_per_second + sum(start) / 2 / 3600
    return Cost(
        trajectories=load.trajectories,
        tokens=load.tokens,
        flop=2.0 * n_parameters(facts.source) * load.tokens,
        replicas=replicas,
        hours=hours,
        hours_low=low,
        hours_high=high,
    )


def _without(config: ScoreConfig) -> str:
    """What the timed batches do not have."""
    extra = ["local_naturalness"] * config.local + ["windows"] * (config.over_length == "window")
    return f", without {' and '.join(extra)}, which takes longer" if extra else ""
