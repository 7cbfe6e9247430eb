"""summaries: what the charts show of each teacher's trajectories.

Legend: N trajectories, S of them in a sample.
"""

from dataclasses import dataclass

import numpy as np

from rsr_ray.decide.scored import Scored
from rsr_ray.metrics import RSR
from rsr_ray.report.page.charts.svg import DIRECT

POINTS = 1_200  # trajectories in the chart of lengths
PERCENTS = (5, 25, 50, 75, 95)


@dataclass(frozen=True)
class RankedScores:
    """A student's trajectories with their values of the metric, and its teachers best first."""

    scored: Scored
    values: np.ndarray  # float64 [N]
    order: list[int]  # of the ranked teachers, best first: indices into scored.teachers


@dataclass(frozen=True)
class Point:
    """Mean surprisal and mean rank of a teacher, and how they vary over prompts."""

    teacher: str
    n: int  # prompts
    mean: tuple[float, float]  # surprisal in nats per token, rank
    covariance: list[list[float]] | None  # [2][2]; None with one prompt


@dataclass(frozen=True)
class Spread:
    """Percentiles of a teacher's trajectories."""

    teacher: str
    percentiles: list[float]  # of the metric, at PERCENTS


@dataclass(frozen=True)
class Sample:
    """Some trajectories of the teachers that have a colour in the chart of lengths."""

    n_tokens: np.ndarray  # int [S]
    values: np.ndarray  # float64 [S]
    place: np.ndarray  # int [S]: of its teacher, from 0


def points_of(ranked: RankedScores) -> list[Point]:
    """A point per teacher, on the prompts of the ranking."""
    scored = ranked.scored
    sums, _ = scored.matrices(RSR).compared()
    points = []
    for code in ranked.order:
        answered = sums.n[:, code] > 0
        n = sums.n[answered, code]
        means = np.stack([sums.y[answered, code], sums.x[answered, code]]) / n  # [2, prompts]
        surprisal, rank = np.average(means, axis=1, weights=n).tolist()
        # blocks of prompts vary less than prompts
        of_each = sums.n_answered[code] / len(n)
        covariance = (np.cov(means) * of_each).tolist() if len(n) > 1 else None
        n_prompts = int(sums.n_answered[code])
        points.append(Point(scored.teachers[code], n_prompts, (surprisal, rank), covariance))
    return points


def spreads_of(ranked: RankedScores) -> list[Spread]:
    """The spread of each teacher's trajectories."""
    scored = ranked.scored
    spreads = []
    for code in ranked.order:
        own = ranked.values[scored.teacher == code]
        found = np.percentile(own, PERCENTS) if len(own) else np.full(len(PERCENTS), np.nan)
        spreads.append(Spread(scored.teachers[code], found.tolist()))
    return spreads


def sample_of(ranked: RankedScores, seed: int) -> Sample:
    """At most POINTS trajectories, drawn at random, of the first DIRECT teachers."""
    scored = ranked.scored
    shown = ranked.order[:DIRECT]
    place = np.full(len(scored.teachers), -1)
    place[shown] = np.arange(len(shown))
    theirs = np.flatnonzero(place[scored.teacher] >= 0)
    rng = np.random.default_rng(seed)
    some = rng.choice(theirs, min(POINTS, len(theirs)), replace=False)
    return Sample(
        scored.columns["n_tokens"][some], ranked.values[some], place[scored.teacher[some]]
    )
