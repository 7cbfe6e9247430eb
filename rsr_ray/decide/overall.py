"""overall: teachers over all strata, by the weighted mean of their values in them."""

from dataclasses import dataclass

import numpy as np

from rsr_ray.decide.inference import MOST, Chances, Interval, Places
from rsr_ray.decide.json_values import known
from rsr_ray.decide.strata import Stratum, n_in_several
from rsr_ray.decide.strata_in_words import overall_in_words
from rsr_ray.decide.stratified import Stratified
from rsr_ray.metrics import Metric


@dataclass(frozen=True, kw_only=True)
class OverallPlace:
    """A teacher over all strata; fields as those of TeacherPlace."""

    teacher: str
    place: int  # from 1
    value: float | None  # the weighted mean of its values in the strata
    low: float | None
    high: float | None
    first_place: int | None
    last_place: int | None
    p_best: float | None


@dataclass(frozen=True, kw_only=True)
class Overall:
    """The teachers that are in every stratum with a weight, over all of these strata."""

    n_strata: int
    n_prompts: int  # over these strata
    teachers: list[OverallPlace]  # best first
    best: list[str]  # teachers one of which is the best, at the confidence; empty where unknown
    left_out: list[str]  # teachers that are not in every stratum
    sentence: str


def rank_over_all(
    strata: list[Stratum], metric: Metric, confidence: float, seed: int, over: str
) -> Overall | None:
    """The ranking over the strata with a weight, which `over` names; None where no teacher is in
    each of them.
    """
    counted = [stratum for stratum in strata if stratum.weight]
    in_each = set.intersection(*({*stratum.scored.teachers} for stratum in counted))
    if not in_each:
        return None
    names = sorted(in_each)
    found = Stratified.of(
        [stratum.of_teachers(names) for stratum in counted], [one.weight for one in counted]
    )
    order = np.argsort(metric.order(found.values), kind="stable")
    names, found = [names[t] for t in order], found.teachers(order)
    why_unsure = _why_unsure(counted, len(names))
    interval = certainty = None
    if why_unsure is None:
        interval = found.interval(confidence, seed)
    if why_unsure is None and len(names) > 1:
        turned = found.turned(metric)
        certainty = turned.places(confidence, seed), turned.chances(seed)
    best = [names[t] for t in certainty[0].best] if certainty else []
    return Overall(
        n_strata=len(counted),
        n_prompts=found.n_prompts,
        teachers=_places(names, found.values, interval, certainty),
        best=best,
        left_out=sorted({n for one in counted for n in one.scored.teachers} - in_each),
        sentence=overall_in_words(
            names, best, found.n_prompts, why_unsure, confidence=confidence, over=over
        ),
    )


def _why_unsure(strata: list[Stratum], n_teachers: int) -> str | None:
    """Why nothing is said of how sure an order over strata is; None where something is."""
    if several := n_in_several(strata):
        answers = "prompt has" if several == 1 else "prompts have"
        return f"{several:,} {answers} answers in several strata"
    if n_teachers > MOST:
        return f"{n_teachers:,} teachers are too many"
    return next((why for stratum in strata if (why := stratum.why_unsure)), None)


def _places(
    names: list[str],
    values: np.ndarray,
    interval: Interval | None,
    certainty: tuple[Places, Chances] | None,
) -> list[OverallPlace]:
    """Teachers, best first, with their values [T] and what is known of them."""
    places, chances = certainty or (None, None)
    return [
        OverallPlace(
            teacher=name,
            place=t + 1,
            value=known(values[t]),
            low=known(interval.low[t]) if interval else None,
            high=known(interval.high[t]) if interval else None,
            first_place=int(places.first[t]) if places else None,
            last_place=int(places.last[t]) if places else None,
            p_best=known(chances.best[t]) if chances else None,
        )
        for t, name in enumerate(names)
    ]
