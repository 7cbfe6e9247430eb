"""moved: which teachers moved and which pairs changed order, and is it more than noise?

Legend: T teachers, K pairs of them, B bootstrap draws; a leading 2 is side A, side B.
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from rsr_ray.decide.bases import AGGREGATES, Basis
from rsr_ray.decide.inference import FEWEST
from rsr_ray.decide.measured import Measured
from rsr_ray.metrics import Metric


@dataclass(frozen=True)
class OnSide:
    """A teacher on one of the two sides."""

    value: float | None  # of the metric, in its unit; None if it is not finite
    place: int  # from 1, best first, among the teachers of both sides
    n_trajectories: int  # all that it has on this side


@dataclass(frozen=True)
class Move:
    """What became of a teacher from A to B.

    All from `difference` on is None for two students: their values are on different scales.
    """

    teacher: str
    a: OnSide
    b: OnSide
    n_prompts: int | None  # that its values stand on; None for aggregates
    difference: float | None = None  # value on B minus value on A
    # The interval of the difference, of this teacher alone; None on few prompts and where nothing
    # varies.
    low: float | None = None
    high: float | None = None
    p_up: float | None = None  # share of draws in which B is higher, a tie counting half
    p_value: float | None = None  # two-sided, after Holm's correction over the teachers
    more_than_noise: bool | None = None  # None: cannot be told, as on few prompts
    went: str | None = None  # same, better or worse


@dataclass(frozen=True)
class Swap:
    """Two teachers that changed order from A to B."""

    before_in_a: str  # the better one on A
    before_in_b: str  # the better one on B
    share: float | None  # of draws that have both orders as they are; None: cannot be told
    p_value: float | None  # of the less sure order, after Holm's correction over all pairs
    more_than_noise: bool | None  # None: cannot be told


@dataclass(frozen=True)
class Tau:
    """Kendall's tau-b of the two rankings."""

    value: float | None  # -1 to 1; None if all teachers of a side tie
    low: float | None  # ends of its interval; None on few prompts
    high: float | None


def find_moves(
    basis: Basis,
    n_trajectories: np.ndarray,
    metric: Metric,
    confidence: float,
    *,
    same_student: bool,
) -> list[Move]:
    """Every teacher's move, in B's order; `n_trajectories` int [2, T]."""
    own = basis.own
    difference, draws = own.difference()
    p = holm(p_values(difference, draws, own.n))
    ranks = [stats.rankdata(metric.order(v), method="ordinal") for v in basis.ranked.values]
    moves = []
    for t in np.argsort(ranks[1]):
        on_a, on_b = (
            OnSide(_finite(own.values[side, t]), int(ranks[side][t]), int(n_trajectories[side, t]))
            for side in (0, 1)
        )
        n_prompts = None if basis.name == AGGREGATES else int(own.n[t])
        move = Move(basis.teachers[t], on_a, on_b, n_prompts)
        if same_student:
            between = (float(own.low[t]), float(own.high[t]))
            move = _judge(move, difference[t], draws[:, t], between, p[t], metric, confidence)
        moves.append(move)
    return moves


def _judge(
    move: Move,
    difference: float,
    draws: np.ndarray,
    between: tuple[float, float],
    p: float,
    metric: Metric,
    confidence: float,
) -> Move:
    """The move with what is known of its noise, from draws of the difference [B]."""
    low, high = between
    known = not math.isnan(p)
    excludes_zero = math.isnan(low) or low > 0 or high < 0
    return dataclasses.replace(
        move,
        difference=_finite(difference),
        low=_finite(low),
        high=_finite(high),
        p_up=_finite(np.mean((draws > 0) + 0.5 * (draws == 0))) if known else None,
        p_value=_finite(p),
        more_than_noise=bool(p < 1 - confidence and excludes_zero) if known else None,
        went=_direction(difference, metric),
    )


def _direction(difference: float, metric: Metric) -> str:
    if not difference:
        return "same"
    return "better" if metric.order(np.asarray(difference)) < 0 else "worse"


def find_swaps(basis: Basis, metric: Metric, confidence: float) -> list[Swap]:
    """The pairs that changed order, the surest first.

    Both orders have to be sure, so a pair's p is the larger of its two.
    """
    ranked = basis.ranked
    i, j = np.triu_indices(len(basis.teachers), 1)
    values = metric.order(ranked.values)
    draws = metric.order(ranked.draws)
    difference = values[:, i] - values[:, j]  # [2, K]
    drawn = draws[:, :, i] - draws[:, :, j]  # [2, B, K]
    n = np.minimum(ranked.n[i], ranked.n[j])
    p_a, p_b = (p_values(difference[side], drawn[side], n) for side in (0, 1))
    p = holm(np.maximum(p_a, p_b))
    share = (np.sign(drawn) == np.sign(difference)[:, None]).all(0).mean(0)
    changed = np.flatnonzero(difference[0] * difference[1] < 0)
    swaps = []
    for k in sorted(changed, key=lambda k: (p[k], -share[k])):
        first, second = basis.teachers[i[k]], basis.teachers[j[k]]
        known = not math.isnan(p[k])
        swap = Swap(
            before_in_a=first if difference[0, k] < 0 else second,
            before_in_b=first if difference[1, k] < 0 else second,
            share=_finite(share[k]) if known else None,
            p_value=_finite(p[k]),
            more_than_noise=bool(p[k] < 1 - confidence) if known else None,
        )
        swaps.append(swap)
    return swaps


def find_tau(ranked: Measured, confidence: float) -> Tau | None:
    """Kendall's tau of both rankings; None for one teacher.

    The interval is the plain percentile interval: tau takes too few values for a finer one to
    differ.
    """
    if ranked.values.shape[1] < 2:
        return None
    taus = kendall(*ranked.draws)
    known = taus[~np.isnan(taus)]
    low, high = math.nan, math.nan
    if len(known) and ranked.n.min() >= FEWEST:
        tail = 50 * (1 - confidence)
        low, high = np.percentile(known, [tail, 100 - tail])
    value = float(kendall(*ranked.values))
    return Tau(_finite(value), _finite(low), _finite(high))


def kendall(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of rankings by values [..., T], [...]; NaN where all of one side tie."""
    i, j = np.triu_indices(a.shape[-1], 1)
    order_a = np.sign(a[..., i] - a[..., j])
    order_b = np.sign(b[..., i] - b[..., j])
    untied = np.sqrt((order_a != 0).sum(-1) * (order_b != 0).sum(-1))
    with np.errstate(invalid="ignore"):
        return np.asarray((order_a * order_b).sum(-1) / untied)


def p_values(value: np.ndarray, draws: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Two-sided p of values [K] that would be 0, from bootstrap draws [B, K] on n prompts [K].

    Student's t of the bootstrap's standard error; for a mean this is the t-test. NaN below FEWEST
    prompts.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(value) / (np.std(draws, axis=0) * np.sqrt(n / (n - 1)))
        p = 2 * stats.t.sf(t, n - 1)
    return np.where(n < FEWEST, np.nan, np.where(value == 0, 1.0, p))


def holm(p: np.ndarray) -> np.ndarray:
    """p values [K] corrected for being so many (S. Holm, 1979); NaN stays, and does not count."""
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known])]
    out = np.full(len(p), np.nan)
    out[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return out


def _finite(value: float) -> float | None:
    """A plain float; None for NaN and infinity, which JSON cannot hold."""
    return float(value) if math.isfinite(value) else None
