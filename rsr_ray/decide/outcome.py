"""outcome: the metric beside what the corpus says of each answer, right or wrong, and its length.

A ranking may be of lengths, or of the share of right answers. Within prompts, where neither is the
prompt's, the metric shows how it goes with each; and the teachers are ranked on right answers only.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from rsr_ray.decide.ranking import Ranking, rank_teachers
from rsr_ray.decide.scored import Scored
from rsr_ray.decide.within_prompts import Column, WithinPrompts, correlate_within
from rsr_ray.metrics import Metric


@dataclass(frozen=True, kw_only=True)
class TeacherOutcome:
    """What the corpus says of a teacher's scored answers."""

    teacher: str
    n_right: int
    n_wrong: int
    n_unsaid: int  # of which it says nothing
    share_right: float | None  # of those of which it says something; None for none


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A metric against verdict and length within prompts, and the ranking on right answers."""

    column: str  # of the corpus, that has the verdicts
    verdict: WithinPrompts  # the metric against the verdict: 1 for right, 0 for wrong
    length: WithinPrompts  # the metric against ln n_tokens, of all answers
    teachers: list[TeacherOutcome]  # sorted by name
    right: Ranking | None  # on right answers only
    why_no_ranking: str | None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def outcome(
    scored: Scored,
    metric: Metric,
    column: str,
    verdicts: np.ndarray,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Outcome:
    """Of trajectories [N] and their verdicts, float64 [N]: 1 right, 0 wrong, NaN unknown.

    Raises UserError for a metric without a direction.
    """
    of_metric = Column(metric.name, metric.values(scored.columns, scored.prompt))
    # lengths are log-normal: a few of 30,000 tokens would outweigh all others
    length = Column("ln n_tokens", np.log(scored.columns["n_tokens"].astype(np.float64)))
    is_right = verdicts == 1
    return Outcome(
        column=column,
        verdict=correlate_within(
            of_metric, Column(column, verdicts), scored.prompt, confidence, seed
        ),
        length=correlate_within(of_metric, length, scored.prompt, confidence, seed),
        teachers=[
            _of_teacher(name, verdicts[scored.teacher == t])
            for t, name in enumerate(scored.teachers)
        ],
        right=(
            rank_teachers(scored.where(is_right), metric, confidence=confidence, seed=seed)
            if is_right.any()
            else None
        ),
        why_no_ranking=None if is_right.any() else f"no answer is correct according to {column}",
    )


def _of_teacher(name: str, verdicts: np.ndarray) -> TeacherOutcome:
    n_right, n_wrong = int((verdicts == 1).sum()), int((verdicts == 0).sum())
    said = n_right + n_wrong
    return TeacherOutcome(
        teacher=name,
        n_right=n_right,
        n_wrong=n_wrong,
        n_unsaid=len(verdicts) - said,
        share_right=n_right / said if said else None,
    )
