"""comparison: two stores, two students or two nights -> what moved, and is it more than noise?"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from rsr_ray.decide.bases import Basis, measure
from rsr_ray.decide.comparison_in_words import comparison_in_words
from rsr_ray.decide.inference import DRAWS
from rsr_ray.decide.moved import Move, Swap, Tau, find_moves, find_swaps, find_tau
from rsr_ray.decide.shared_trajectories import SharedTrajectories, match_trajectories
from rsr_ray.decide.side_settings import SettingsCheck, check_settings
from rsr_ray.decide.sides import Pair, Side, SideFacts
from rsr_ray.metrics import Metric


@dataclass(frozen=True)
class Comparison:
    """What moved from side A to side B. None stands for what is not known, or not finite."""

    a: SideFacts
    b: SideFacts
    metric: str
    better: str  # lower or higher
    confidence: float  # of intervals and of "more than noise", a share
    draws: int  # of the bootstrap
    seed: int
    same_student: bool  # both sides have the same weights; else values are on different scales
    # "matched prompts", "all prompts" of two nights of one student, or "aggregates" of nights whose
    # rows can no longer be told
    basis: str
    teachers: list[Move]  # of both sides, in B's order
    swaps: list[Swap]  # pairs of teachers in another order, the surest first
    kendall: Tau | None  # of the two rankings; None for one teacher
    n_prompts_ranked: int | None  # that places, swaps and kendall stand on; None for aggregates
    trajectories: SharedTrajectories | None  # None for aggregates
    only_a: list[str]  # teachers with scores on A alone
    only_b: list[str]
    unmatched: list[str]  # teachers on both sides, but with no prompt in common
    notes: list[str]  # what a reader has to know, a sentence each

    @property
    def sentence(self) -> str:
        """The answer in words."""
        return comparison_in_words(
            self.teachers, self.swaps, self.trajectories, same_student=self.same_student
        )

    def to_json(self) -> dict[str, Any]:
        """As `rsr-ray compare --json` prints it: the fields under their names, and `sentence`."""
        return dataclasses.asdict(self) | {"sentence": self.sentence}


def compare_sides(
    a: Side,
    b: Side,
    metric: Metric,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    anyway: bool = False,
) -> Comparison:
    """Compare the teachers of two sides: what moved from A to B, and whether it is more than noise.

    `open_side` opens a store, a student or a night as a side. Values are in the unit of `metric`.
    `confidence` is a share between 0 and 1, `seed` that of the bootstrap.

    Noise is the variation between prompts: the same prompts are drawn for both sides, so what both
    share cancels. p values are Student's t of the bootstrap's standard error, corrected by Holm's
    method (1979); intervals are bootstrap-t (Efron & Tibshirani, 1993).

    Raises UserError for a metric without a direction, for sides with nothing in common, and for
    sides scored under different settings, unless `anyway`.
    """
    metric.check_direction()
    check = check_settings(a, b, metric, anyway=anyway)
    pair = Pair.load(a, b, metric)
    basis = measure(pair, metric, confidence, seed)
    return _compare(pair, basis, check, metric, confidence, seed)


def _compare(
    pair: Pair, basis: Basis, check: SettingsCheck, metric: Metric, confidence: float, seed: int
) -> Comparison:
    same_student = check.same_student
    rows = pair.rows
    on_a, on_b = pair.teachers
    n_trajectories = pair.n_trajectories(basis.teachers)
    return Comparison(
        a=pair.a.facts,
        b=pair.b.facts,
        metric=metric.name,
        better=metric.better,
        confidence=confidence,
        draws=DRAWS,
        seed=seed,
        same_student=same_student,
        basis=basis.name,
        teachers=find_moves(basis, n_trajectories, metric, confidence, same_student=same_student),
        swaps=find_swaps(basis, metric, confidence),
        kendall=find_tau(basis.ranked, confidence),
        n_prompts_ranked=int(basis.ranked.n.min()) if rows else None,
        trajectories=match_trajectories(*rows, metric, same_student=same_student) if rows else None,
        only_a=sorted({*on_a} - {*on_b}),
        only_b=sorted({*on_b} - {*on_a}),
        unmatched=basis.unmatched,
        notes=[*check.notes, *_store_notes(pair), *filter(None, [pair.note]), *basis.notes],
    )


def _store_notes(pair: Pair) -> list[str]:
    """What the stores say of the scores they have now."""
    return [
        f"{mark}: {note}"
        for mark, side in (("A", pair.a), ("B", pair.b))
        if side.night is None
        for note in side.store.notes(side.fingerprint)
    ]
