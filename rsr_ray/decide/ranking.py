"""ranking: scored trajectories -> a ranking of teachers by any metric, and how sure it is.

All of it is paired by prompt: teachers are compared on the same prompts. How sure a ranking is,
inference.py says. Legend: N trajectories, P prompts, T teachers.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rsr_ray.decide.degeneration import Degeneration, guarded
from rsr_ray.decide.inference import (
    DRAWS,
    FEWEST,
    MOST,
    Chances,
    Interval,
    Places,
    chances,
    influence,
    interval,
    more_prompts,
    place_bounds,
)
from rsr_ray.decide.json_values import known
from rsr_ray.decide.matrices import Matrices
from rsr_ray.decide.scored import Scored
from rsr_ray.decide.spearman import spearman
from rsr_ray.decide.sums import Values
from rsr_ray.decide.wording import notes, sentence
from rsr_ray.metrics import Metric
from rsr_ray.store.records import read_as

PAIRED = 100  # teachers of which the probability of each pairwise order is told


@dataclass(frozen=True, kw_only=True)
class OnAllPrompts:
    """A teacher on all the prompts that it answered; values in the metric's unit."""

    value: float | None
    low: float | None  # ends of the interval, as those of TeacherPlace
    high: float | None
    error: float | None = None  # standard error over prompts
    n_prompts: int


@dataclass(frozen=True, kw_only=True)
class TeacherPlace:
    """A teacher in a ranking; values in the metric's unit, probabilities and shares in 0 to 1.

    None is what is not known: see Ranking for when nothing is known of certainty.
    """

    teacher: str
    place: int  # from 1
    value: float | None  # on the prompts of the ranking
    low: float | None  # ends of its interval at the confidence (inference.interval)
    high: float | None
    first_place: int | None = None  # bounds on the place that hold for all teachers at once
    last_place: int | None = None
    p_best: float | None  # probability of being the best
    won: float | None  # share of prompts on which it is the best, a tie shared
    all: OnAllPrompts
    # Over its trajectories:
    n_trajectories: int
    mean_tokens: float
    mean: float | None
    median: float | None
    std: float | None  # None for one trajectory
    q25: float | None
    q75: float | None
    # Of those of which it is known:
    degenerate: float | None = None  # the share that is (rsr_ray.guard)
    cut_off: float | None = None

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "TeacherPlace":
        return read_as(cls, found | {"all": read_as(OnAllPrompts, found.get("all") or {})})


@dataclass(frozen=True, kw_only=True)
class LengthControl:
    """Spearman's correlation of the metric and n_tokens over trajectories; None where one of the
    two does not vary.
    """

    spearman: float | None  # over all trajectories
    within_teachers: float | None  # the mean of the correlations within teachers


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Teachers by a metric, best first, with what is known of the ranking's certainty.

    All that is said of certainty is of prompts like these. Where the teachers have no prompt in
    common, on fewer than FEWEST prompts, and of more than MOST teachers, the ranking has values
    and their intervals, but nothing is known of how sure the order is.

    Fields with defaults are those that rankings of earlier versions lack.
    """

    metric: str  # "rsr on reasoning", if it is one of a segment
    segment: str | None = None
    better: str  # "lower" or "higher"
    confidence: float  # of intervals and places
    draws: int  # of prompts, on which intervals and places stand
    seed: int
    matched: bool  # on the prompts that all teachers answered; else each on all its own
    n_prompts: int  # of the ranking
    n_prompts_all: int  # that any teacher answered
    n_trajectories: int
    teachers: list[TeacherPlace]
    # Teachers one of which is the best, at the confidence; empty where nothing is known.
    best: list[str] = field(default_factory=list)
    # About how many would tell the first from the next of `best`; None if unknown, or too many.
    more_prompts: int | None = None
    # [T, T] of the first PAIRED teachers: probability that the row's is better than the column's;
    # empty where nothing is known.
    pairwise: list[list[float | None]]
    length: LengthControl
    notes: list[str]  # what a reader has to know, a sentence each
    sentence: str  # the answer in words
    degeneration: Degeneration | None = None  # None where the guard's columns are not known

    def to_json(self) -> dict[str, Any]:
        """As `teachers --json` prints it and as the record of a night has it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Ranking":
        """A ranking of `to_json`, of this version or an earlier one."""
        teachers = [TeacherPlace.from_json(t) for t in found["teachers"]]
        length = read_as(LengthControl, found.get("length") or {})
        guard = found.get("degeneration")
        kept = {
            "teachers": teachers,
            "length": length,
            "degeneration": Degeneration.from_json(guard, cls) if guard else None,
        }
        return read_as(cls, found | kept)


@dataclass(frozen=True)
class Certainty:
    """What is known of an order of teachers on prompts like those it was seen on."""

    places: Places
    chances: Chances
    more_prompts: int | None  # that would tell the first from the next one that may be best

    @classmethod
    def of(cls, compared: Matrices, metric: Metric, confidence: float, seed: int) -> "Certainty":
        """Of teachers that are in the order of their values."""
        values, each = influence(compared.x, compared.y)
        values, each = metric.order(values), metric.order(each)
        places = place_bounds(values, each, confidence, seed)
        rival = next((int(t) for t in places.best if t), None)
        n = compared.n_prompts
        more = more_prompts(values, each, (0, rival), places.critical, n) if rival else None
        return cls(places, chances(values, each, seed), more)


@dataclass(frozen=True)
class Measured:
    """Teachers as their prompts show them, best first; arrays are [T]."""

    order: np.ndarray  # int: indices into Scored.teachers
    is_matched: bool  # they are compared on prompts that all of them answered
    n_prompts: int  # that they are compared on
    values: np.ndarray  # on these
    interval: Interval
    won: np.ndarray | None  # share of prompts on which each is the best; None: nothing is shared
    on_all: list[OnAllPrompts]
    certainty: Certainty | None

    @classmethod
    def of(cls, every: Matrices, metric: Metric, confidence: float, seed: int) -> "Measured":
        """Of teachers in any order."""
        compared, is_matched = every.compared()
        values = compared.values()
        order = np.argsort(metric.order(values), kind="stable")
        compared, every = compared.teachers(order), every.teachers(order)
        own = own_intervals(every, confidence, seed)
        is_paired = is_matched and len(order) > 1
        is_known = is_paired and compared.n_prompts >= FEWEST and len(order) <= MOST
        return cls(
            order=order,
            is_matched=is_matched,
            n_prompts=compared.n_prompts,
            values=values[order],
            interval=own_intervals(compared, confidence, seed) if is_matched else own,
            won=compared.won(metric) if is_paired else None,
            on_all=_on_all_prompts(every, own),
            certainty=Certainty.of(compared, metric, confidence, seed) if is_known else None,
        )

    @property
    def best(self) -> list[int]:
        """Those that may be the best; none where nothing is known."""
        return self.certainty.places.best.tolist() if self.certainty else []

    @property
    def more_prompts(self) -> int | None:
        return self.certainty.more_prompts if self.certainty else None

    @property
    def pairwise(self) -> list[list[float | None]]:
        """As Ranking has it."""
        if not self.certainty:
            return []
        pairs = self.certainty.chances.before[:PAIRED, :PAIRED]
        return [[known(p) for p in row] for row in pairs.tolist()]


def rank_teachers(
    scored: Scored, metric: Metric, *, confidence: float = 0.95, seed: int = 0
) -> Ranking:
    """Rank teachers by a metric on the prompts that all of them answered, or on all prompts if
    there are none, and state how certain the ranking is; next to it the ranking without degenerate
    trajectories.

    Raises UserError for a metric without a direction.
    """
    metric.check_direction()
    scored = scored.valued(metric)
    rank = functools.partial(_rank, metric=metric, confidence=confidence, seed=seed)
    return guarded(scored, metric, rank)


def _rank(scored: Scored, metric: Metric, confidence: float, seed: int) -> Ranking:
    """The ranking of these trajectories alone."""
    every = scored.matrices(metric)
    measured = Measured.of(every, metric, confidence, seed)
    of_trajectories = metric.values(scored.columns, scored.prompt)
    n_tokens = scored.columns[metric.n_tokens]
    teachers = list(_teacher_places(scored, measured, of_trajectories, scored.values_of(metric)))
    names = [t.teacher for t in teachers]
    return Ranking(
        metric=metric.name,
        segment=metric.segment,
        better=metric.better,
        confidence=confidence,
        draws=DRAWS,
        seed=seed,
        matched=measured.is_matched,
        n_prompts=measured.n_prompts,
        n_prompts_all=scored.n_prompts,
        n_trajectories=scored.n_trajectories,
        teachers=teachers,
        best=[names[t] for t in measured.best],
        more_prompts=measured.more_prompts,
        pairwise=measured.pairwise,
        length=length_control(scored, of_trajectories, n_tokens),
        notes=notes(scored, metric, every, measured.is_matched),
        sentence=_answer(names, measured, confidence),
    )


def _answer(names: list[str], measured: Measured, confidence: float) -> str:
    return sentence(
        names,
        [names[t] for t in measured.best],
        is_matched=measured.is_matched,
        n_prompts=measured.n_prompts,
        more_prompts=measured.more_prompts,
        confidence=confidence,
    )


def _teacher_places(
    scored: Scored, measured: Measured, of_trajectories: np.ndarray, values: Values
) -> Iterator[TeacherPlace]:
    """Best first; `of_trajectories` are values of the metric, [N]."""
    found = measured.certainty
    won = measured.won
    flags = scored.flag_counts()
    for place, t in enumerate(measured.order.tolist()):
        own = of_trajectories[scored.teacher == t]
        q25, median, q75 = np.percentile(own, [25, 50, 75]) if len(own) else 3 * [math.nan]
        yield TeacherPlace(
            teacher=scored.teachers[t],
            place=place + 1,
            value=known(measured.values[place]),
            low=known(measured.interval.low[place]),
            high=known(measured.interval.high[place]),
            first_place=int(found.places.first[place]) if found else None,
            last_place=int(found.places.last[place]) if found else None,
            p_best=known(found.chances.best[place]) if found else None,
            won=known(won[place]) if won is not None else None,
            all=measured.on_all[place],
            n_trajectories=int(values.n[t]),
            mean_tokens=float(values.mean_tokens[t]),
            mean=known(values.mean[t]),
            median=known(median),
            std=known(values.std[t]),
            q25=known(q25),
            q75=known(q75),
            **flags.shares(t),
        )


def _on_all_prompts(every: Matrices, own: Interval) -> list[OnAllPrompts]:
    values = every.values()
    n_prompts = every.n_answered
    return [
        OnAllPrompts(
            value=known(values[t]),
            low=known(own.low[t]),
            high=known(own.high[t]),
            error=known(own.error[t]),
            n_prompts=int(n_prompts[t]),
        )
        for t in range(len(values))
    ]


def own_intervals(matrices: Matrices, confidence: float, seed: int) -> Interval:
    """Of each teacher on the prompts that it answered."""
    found = []
    for x, y, n in zip(matrices.x.T, matrices.y.T, matrices.n.T, strict=True):
        values, each = influence(x[n > 0, None], y[n > 0, None])
        found.append(interval(values, each, confidence, seed))
    return Interval(
        low=np.concatenate([one.low for one in found]),
        high=np.concatenate([one.high for one in found]),
        error=np.concatenate([one.error for one in found]),
    )


def length_control(scored: Scored, values: np.ndarray, n_tokens: np.ndarray) -> LengthControl:
    """How the metric, of trajectories [N], goes with their length, or that of their segment."""
    within = []
    for t in range(len(scored.teachers)):
        mine = scored.teacher == t
        within.append(spearman(values[mine], n_tokens[mine]))
    defined = [r for r in within if not math.isnan(r)]
    return LengthControl(
        spearman=known(spearman(values, n_tokens)),
        within_teachers=float(np.mean(defined)) if defined else None,
    )
