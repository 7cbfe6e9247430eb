"""strata: trajectories, apart by what their rows say in a column, and how much each stratum weighs.

Legend: N trajectories, P prompts, T teachers of a stratum.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rsr_ray.decide.inference import FEWEST, MOST
from rsr_ray.decide.matrices import Matrices
from rsr_ray.decide.scored import Scored
from rsr_ray.errors import UserError
from rsr_ray.metrics import Metric

MOST_STRATA = 100  # of a column with more values each has too few prompts, and no page shows them


@dataclass(frozen=True)
class Stratum:
    """The trajectories of which a column says one thing."""

    name: str
    weight: float  # in what is said over all strata, whose weights add up to 1
    scored: Scored
    compared: Matrices  # [P, T]: what its teachers are compared on
    is_matched: bool  # that is prompts which all of them answered

    @property
    def n_prompts(self) -> int:
        return self.compared.n_prompts

    @property
    def why_unsure(self) -> str | None:
        """Why nothing is known of how sure its order is, in words; None where it is known."""
        if not self.is_matched:
            return f"no prompt of {self.name} was answered by all of its teachers"
        if self.n_prompts < FEWEST:
            plural = "s" if self.n_prompts > 1 else ""
            return f"{self.name} has {self.n_prompts} prompt{plural} that all of its teachers share"
        if len(self.scored.teachers) > MOST:
            return f"{self.name} has {len(self.scored.teachers):,} teachers"
        return None

    def of_teachers(self, names: list[str]) -> Matrices:
        """What these teachers are compared on, [P, len(names)]."""
        return self.compared.teachers(np.array([self.scored.teachers.index(n) for n in names]))


def split_strata(
    scored: Scored, column: str, metric: Metric, weights: Mapping[str, float] | None
) -> list[Stratum]:
    """The strata of `load_scored(..., stratum=column)`, sorted by name.

    They weigh the same without `weights`. Raises UserError for a column in which no row says
    anything, or too many things, and for weights that are not those of its strata.
    """
    if scored.stratum is None:
        raise UserError(f"stratum {column}: load the scores with load_scored(..., stratum=...)")
    within = scored.in_strata()
    names = [*within]
    if not names:
        raise UserError(f"--by-stratum {column}: no scored row has a value in this column")
    if len(names) > MOST_STRATA:
        raise UserError(
            f"--by-stratum {column}: has {len(names):,} values (e.g. {names[0]!r:.40}); use a "
            f"column with at most {MOST_STRATA}"
        )
    strata = []
    for (name, own), weight in zip(within.items(), _shares(names, column, weights), strict=True):
        compared, is_matched = own.matrices(metric).compared()
        strata.append(Stratum(name, weight, own, compared, is_matched))
    return strata


def _shares(names: list[str], column: str, weights: Mapping[str, float] | None) -> list[float]:
    """The weights of strata, which add up to 1. Raises UserError."""
    if weights is None:
        return [1 / len(names)] * len(names)
    if unknown := sorted(weights.keys() - {*names}):
        raise UserError(
            f"--stratum-weights {unknown[0]}: no such value in {column}; values: {', '.join(names)}"
        )
    if missing := [name for name in names if name not in weights]:
        raise UserError(
            f"--stratum-weights: {column} also has {', '.join(missing)}; give each a weight (0 "
            "leaves it out of the overall ranking)"
        )
    total = sum(weights.values())
    if min(weights.values()) < 0 or not total > 0:
        raise UserError("--stratum-weights: must not be negative, and at least one must be above 0")
    return [weights[name] / total for name in names]


def n_in_several(strata: list[Stratum]) -> int:
    """Prompts with answers in more than one stratum."""
    if strata and (whole := strata[0].scored.whole):
        return whole.n_in_several
    prompts = pa.concat_arrays([stratum.scored.prompts for stratum in strata])
    return len(prompts) - len(prompts.unique())
