"""strata_ranking: teachers within each stratum, and over all strata with weights.

Within a stratum a ranking is what `rank_teachers` says of its trajectories. Over all strata a
teacher's value is the weighted mean of its values in them, of the teachers that are in each.
Strata are never pooled: where they have other teachers, or a teacher is not in one, it is said.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rsr_ray.decide.inference import DRAWS
from rsr_ray.decide.orders import OrderChange, Orders
from rsr_ray.decide.overall import Overall, rank_over_all
from rsr_ray.decide.ranking import Ranking, rank_teachers
from rsr_ray.decide.scored import Scored
from rsr_ray.decide.strata import Stratum, split_strata
from rsr_ray.decide.strata_in_words import orders_in_words, over_strata, strata_notes
from rsr_ray.metrics import Metric


@dataclass(frozen=True, kw_only=True)
class StratumRanking:
    """The ranking within a stratum."""

    stratum: str
    weight: float  # in the ranking over all strata; these add up to 1
    ranking: Ranking


@dataclass(frozen=True, kw_only=True)
class StrataRanking:
    """Teachers by a metric within each stratum and over all, and how the orders differ."""

    by: str  # the column
    metric: str
    better: str  # "lower" or "higher"
    confidence: float
    draws: int  # of prompts, within strata
    seed: int
    equal_weights: bool
    n_trajectories: int  # in the strata
    n_without: int  # trajectories that say nothing in the column
    strata: list[StratumRanking]  # sorted by name
    overall: Overall | None  # None where no teacher is in every stratum
    # [S, S]: Kendall's tau-b of the orders of the teachers that two strata share; None where
    # there is none.
    tau_b: list[list[float | None]]
    changes: list[OrderChange]  # pairs of teachers that change order, the surest first
    notes: list[str]
    sentence: str  # the answer in words

    @property
    def teachers(self) -> list[str]:
        """Those over all strata, best first, and then the others by stratum and place."""
        first = [t.teacher for t in self.overall.teachers] if self.overall else []
        others = [t.teacher for one in self.strata for t in one.ranking.teachers]
        return list(dict.fromkeys([*first, *others]))

    def to_json(self) -> dict[str, Any]:
        """As `teachers --json` prints it."""
        return dataclasses.asdict(self)


def rank_strata(
    scored: Scored,
    metric: Metric,
    column: str,
    *,
    weights: Mapping[str, float] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> StrataRanking:
    """Teachers within the strata of `load_scored(store, [metric], stratum=column)`, and over all.

    Without `weights` all strata weigh the same. Raises UserError for a metric without a direction,
    a column of no or too many values, and weights that are not those of its strata.
    """
    metric.check_direction()
    scored = scored.valued(metric)
    strata = split_strata(scored, column, metric, weights)
    orders = Orders.of(strata, metric, confidence, seed)
    changes = orders.changes()
    n_trajectories = sum(stratum.scored.n_trajectories for stratum in strata)
    n_without = scored.n_trajectories - n_trajectories
    n_weighty = sum(stratum.weight > 0 for stratum in strata)
    over = over_strata(n_weighty, column, equal_weights=weights is None)
    return StrataRanking(
        by=column,
        metric=metric.name,
        better=metric.better,
        confidence=confidence,
        draws=DRAWS,
        seed=seed,
        equal_weights=weights is None,
        n_trajectories=n_trajectories,
        n_without=n_without,
        strata=[_ranked(stratum, metric, confidence, seed) for stratum in strata],
        overall=rank_over_all(strata, metric, confidence, seed, over),
        tau_b=orders.tau_b(),
        changes=changes,
        notes=[*scored.notes, *strata_notes(strata, column, n_without)],
        sentence=orders_in_words(orders, changes, column, confidence),
    )


def _ranked(stratum: Stratum, metric: Metric, confidence: float, seed: int) -> StratumRanking:
    ranking = rank_teachers(stratum.scored, metric, confidence=confidence, seed=seed)
    return StratumRanking(stratum=stratum.name, weight=stratum.weight, ranking=ranking)
