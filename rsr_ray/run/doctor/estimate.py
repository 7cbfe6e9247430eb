"""What a run would cost.

A range of times comes from how much the time per byte of the sampled rows varies, from how far the
timed batches are from the fitted speed, and from how long a run takes to start.
"""

import math
from dataclasses import dataclass, replace

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


@dataclass(frozen=True)
class Load:
    """What is left to score, from a sample of R rows."""

    lengths: np.ndarray  # float64 [R]: tokens of each; 0 if it is rejected
    sizes: np.ndarray  # float64 [R]: bytes in its shard
    n_bytes: int  # of the shards that are left
    shards: int

    @classmethod
    def of(cls, sample: Sample, encoded: EncodedSample, n_bytes: int, shards: int) -> "Load":
        """Of `n_bytes` of the corpus, in `shards`."""
        lengths = np.array([0 if ids is None else len(ids) for ids in encoded.of_rows], float)
        return cls(lengths, np.array(sample.row_bytes[: len(lengths)]), n_bytes, shards)

    @property
    def trajectories(self) -> float:
        return float(self.n_bytes / self.sizes.mean())

    @property
    def tokens(self) -> float:
        return self.total(self.lengths)

    def total(self, each: np.ndarray) -> float:
        """Over all rows, of what each of the sample has, [R]."""
        return float(self.n_bytes * each.sum() / self.sizes.sum())

    def off(self, each: np.ndarray) -> float:
        """The factor, 1 or more, by which a `total` may be more or less."""
        n = len(each)
        if n < FEWEST:
            return UNSURE
        residuals = each - each.sum() / self.sizes.sum() * self.sizes
        error = math.sqrt((residuals**2).sum() / (n - 1) / n)
        return MARGIN * math.exp(STANDARD_ERRORS * error / each.mean())


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The work of a run, about. Hours and the speed of a replica are None if that of such a replica
    was not measured.
    """

    trajectories: float
    tokens: float
    flop: float
    replicas: int
    tokens_per_second: float | None = None  # of a replica, on rows as long as these
    slowest: float | None = None
    fastest: float | None = None
    hours: float | None = None
    hours_low: float | None = None
    hours_high: float | None = None

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
    limit = config.length_limit(facts)
    cost = _cost(facts, resources, load, speed, limit, is_here)
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
            f"factor of {load.off(load.lengths):.2f}, {cost.slowest:,.0f} to {cost.fastest:,.0f} "
            f"tokens/s per replica, timed on rows of up to {speed.longest_row:,} "
            f"tokens{_without(config)}",
        )
    return cost


def _cost(
    facts: StudentFacts,
    resources: Resources,
    load: Load,
    speed: Speed | None,
    limit: int,
    is_here: bool,
) -> Cost:
    """`limit` is the most tokens that a row is scored with at a time."""
    cost = Cost(
        trajectories=load.trajectories,
        tokens=load.tokens,
        flop=2.0 * n_parameters(facts.source) * load.tokens,
        replicas=max(1, min(resources.replicas, load.shards)),  # a shard is never shared
    )
    if not load.shards:
        return replace(cost, hours=0.0, hours_low=0.0, hours_high=0.0)
    device = "cuda" if resources.gpus_per_replica else "cpu"
    if speed is None or speed.device != device:
        return cost
    each = speed.seconds(load.lengths, limit)
    seconds, off = load.total(each), load.off(each)
    start = START_HERE if is_here else START_ON_RAY

    def hours(of_all: float, start: float) -> float:
        return (of_all / cost.replicas + start) / 3600

    return replace(
        cost,
        tokens_per_second=cost.tokens / seconds,
        slowest=cost.tokens / seconds / speed.most,
        fastest=cost.tokens / seconds / speed.least,
        hours=hours(seconds, sum(start) / 2),
        hours_low=hours(seconds * speed.least / off, start[0]),
        hours_high=hours(seconds * speed.most * off, start[1]),
    )


def _without(config: ScoreConfig) -> str:
    """What the timed batches do not have."""
    extra = ["local_naturalness"] * config.local + ["windows"] * (config.over_length == "window")
    return f", without {' and '.join(extra)}, which takes longer" if extra else ""
