"""bases: what two sides have in common, and their values measured on it.

Matched prompts, or all prompts of two nights of one student, or only the aggregates in the nights'
records. Legend: P prompts, T teachers; a leading 2 is side A, side B.
"""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.decide.matrices import Matrices
from rsr_ray.decide.measured import Measured, measure_by_errors, measure_on_prompts
from rsr_ray.decide.scored import Scored
from rsr_ray.decide.sides import Pair, Side
from rsr_ray.errors import UserError
from rsr_ray.metrics import Metric

MATCHED_PROMPTS = "matched prompts"
ALL_PROMPTS = "all prompts"
AGGREGATES = "aggregates"


@dataclass(frozen=True)
class Basis:
    """What two sides have in common, measured."""

    name: str  # MATCHED_PROMPTS, ALL_PROMPTS or AGGREGATES
    teachers: list[str]  # [T]
    own: Measured  # each teacher on its own prompts: for values
    ranked: Measured  # all teachers on the prompts they share, if there are any: for places
    unmatched: list[str]  # teachers of both sides that were left out
    notes: list[str]  # a sentence each


def measure(pair: Pair, metric: Metric, confidence: float, seed: int) -> Basis:
    """Measure both sides on the best basis they have.

    Raises UserError if they have nothing in common.
    """
    teachers = pair.shared_teachers()
    if pair.rows is None:
        return on_aggregates(pair, teachers, metric, confidence, seed)
    on_prompts = on_all_prompts if pair.is_one_history else on_matched_prompts
    return on_prompts(*pair.rows, teachers, metric, confidence, seed)


def on_all_prompts(
    a: Scored, b: Scored, teachers: list[str], metric: Metric, confidence: float, seed: int
) -> Basis:
    """Measure two nights on all that each had.

    Every trajectory weighs the same, as in the nights' own tables.
    """
    prompts = pa.chunked_array([a.prompts, b.prompts]).unique()
    on_a = aligned(a, metric, teachers, prompts)
    on_b = aligned(b, metric, teachers, prompts)
    answered = (on_a.n > 0) | (on_b.n > 0)
    measured = measure_on_prompts(on_a, on_b, answered, confidence, seed)
    return Basis(ALL_PROMPTS, teachers, measured, measured, [], [])


def on_matched_prompts(
    a: Scored, b: Scored, teachers: list[str], metric: Metric, confidence: float, seed: int
) -> Basis:
    """Measure each teacher on the prompts that it answered on both sides.

    Raises UserError if no teacher has any.
    """
    prompts = a.prompts.filter(pc.is_in(a.prompts, b.prompts))
    on_a = aligned(a, metric, teachers, prompts)
    on_b = aligned(b, metric, teachers, prompts)
    matched = (on_a.n > 0) & (on_b.n > 0)  # bool [P, T]
    has_any = np.asarray(matched.any(0))  # bool [T]
    unmatched = [name for name, has in zip(teachers, has_any, strict=True) if not has]
    if not has_any.any():
        raise UserError(
            "no prompt has answers by the same teacher on both sides; teachers on both sides: "
            f"{', '.join(unmatched)}"
        )
    on_a = mean_of_answers(on_a, matched, has_any)
    on_b = mean_of_answers(on_b, matched, has_any)
    matched = matched[:, has_any]
    kept = [name for name in teachers if name not in unmatched]
    own = measure_on_prompts(on_a, on_b, matched, confidence, seed)
    whole = np.asarray(matched.all(1))  # bool [P]: prompts that all teachers have on both sides
    note = _note_on_places(whole, matched)
    ranked = own
    if note and whole.any():
        everywhere = np.repeat(whole[:, None], len(kept), 1)
        ranked = measure_on_prompts(on_a, on_b, everywhere, confidence, seed)
    return Basis(MATCHED_PROMPTS, kept, own, ranked, unmatched, [note] if note else [])


def _note_on_places(whole: np.ndarray, matched: np.ndarray) -> str | None:
    """What sets places apart from values, if anything; `whole` bool [P], `matched` bool [P, T]."""
    if not whole.any():
        return (
            "no prompt was answered by all these teachers on both sides: places compare values "
            "on different prompts, so interpret them with care"
        )
    if (whole == matched.any(1)).all():
        return None
    return (
        f"places and order are based on the {whole.sum():,} prompts that all these teachers "
        "answered on both sides, values on each teacher's own prompts"
    )


def on_aggregates(
    pair: Pair, teachers: list[str], metric: Metric, confidence: float, seed: int
) -> Basis:
    """Measure sides of which only TEACHERS rows are known, by rsr.

    The errors are those of the nights' rankings, taken as independent. They cannot come from the
    table: several answers to a prompt are not independent, and a teacher's spread over trajectories
    does not tell how many prompts there are. Without them nothing is said of noise.

    Raises UserError for another metric than rsr.
    """
    lost = " and ".join(pair.lost)
    if metric.name != "rsr":
        raise UserError(
            f"--by {metric.name}: the rows of night {lost} can no longer be identified, and its "
            "record only has rsr"
        )
    values = np.array([side.column("rsr", teachers) for side in (pair.a, pair.b)])
    error_a, n_a = recorded_errors(pair.a, teachers)
    error_b, n_b = recorded_errors(pair.b, teachers)
    error = np.stack([error_a, error_b])
    measured = measure_by_errors(values, error, np.stack([n_a, n_b]), confidence, seed)
    note = (
        f"the rows of night {lost} can no longer be identified, because the store was copied or "
        f"shards were replaced since. {_note_on_noise(error)}"
    )
    return Basis(AGGREGATES, teachers, measured, measured, [], [note])


def _note_on_noise(error: np.ndarray) -> str:
    if np.isnan(error).any():
        return (
            "For some teachers a night's record has no standard error over prompts, so their "
            "changes are not tested against noise"
        )
    return (
        "The noise is taken from each night's own record, as if the nights had no prompts in "
        "common; if they do, it is overestimated"
    )


def recorded_errors(side: Side, teachers: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Teachers' standard errors over prompts, and their numbers of prompts, [T] each.

    They are those of the night's ranking; NaN and 0 if it has none.
    """
    ranked = side.ranking.teachers if side.ranking else []
    on_all_prompts = {t.teacher: t.all for t in ranked}
    error = np.full(len(teachers), math.nan)
    n_prompts = np.zeros(len(teachers), np.int64)
    for t, name in enumerate(teachers):
        known = on_all_prompts.get(name)
        if known is not None and known.error is not None:
            error[t] = known.error
            n_prompts[t] = known.n_prompts
    return error, n_prompts


def aligned(scored: Scored, metric: Metric, teachers: list[str], prompts: pa.Array) -> Matrices:
    """A side's terms by these prompts and teachers, [P, T] each; 0 where there is no answer.

    The metric sees the answers of these teachers only: one that looks at the other answers to a
    prompt needs the same ones on both sides.
    """
    some = scored.only(teachers)
    terms = some.matrices(metric)
    row = pc.index_in(prompts, some.prompts).fill_null(-1).to_numpy()
    is_there = (row >= 0)[:, None]
    return Matrices(*(np.where(is_there, m[row], 0) for m in (terms.x, terms.y, terms.n)))


def mean_of_answers(side: Matrices, matched: np.ndarray, teachers: np.ndarray) -> Matrices:
    """Only matched prompts, bool [P, T], of some teachers, bool [T].

    Several answers become their mean: every prompt weighs the same.
    """
    n = np.where(matched, side.n, 1)
    return Matrices(*(np.where(matched, m / n, 0.0)[:, teachers] for m in (side.x, side.y, side.n)))
