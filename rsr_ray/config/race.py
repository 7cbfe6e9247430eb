"""The settings of `rsr-ray race`."""

from dataclasses import dataclass

from rsr_ray.config.options import KEEP_DEGENERATE, check_least, option
from rsr_ray.config.score import ScoreConfig
from rsr_ray.errors import UserError
from rsr_ray.metrics import REGISTRY

MIN_PROMPTS = 20  # of a race before anything is decided: means of fewer are not normal enough


@dataclass(frozen=True, kw_only=True)
class RaceConfig(ScoreConfig):
    """What `rsr-ray race` does: the settings it scores with, and its own."""

    teachers: tuple[str, ...] = option("teachers to race; default: all in the corpus", ())
    by: str = option("metric to race on: any one-pass metric with a direction, except lark", "rsr")
    confidence: float = option(
        "confidence that no other teacher is better by more than the margin on the matched prompts",
        0.95,
    )
    margin: float = option(
        "treat teachers within this share of the best value as equally good", 0.01
    )
    budget: float = option(
        "cost limit, as a share of the cost of scoring every matched prompt; a round that would "
        "exceed it is not started",
        1.0,
    )
    first_round: int | None = option(
        "prompts in the first round; default: 2% of all prompts, or more if needed to see junk "
        "in 4% of a teacher's answers",
        None,
    )
    keep_degenerate: bool = option(KEEP_DEGENERATE, False)
    seed: int = option("random seed for the order of prompts", 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        metric = REGISTRY.get(self.by)
        if (
            metric is None
            or metric.better == "-"
            or metric.within_prompt
            or self.by == "local_naturalness"
        ):
            known = [
                m.name
                for m in REGISTRY.values()
                if m.better != "-" and not m.within_prompt and m.name != "local_naturalness"
            ]
            raise UserError(f"--by {self.by}: not a metric to race on; use {', '.join(known)}")
        if len({*self.teachers}) == 1:
            raise UserError(f"--teachers {self.teachers[0]}: a race needs at least two")
        if not 0.5 < self.confidence < 1:
            raise UserError(
                f"--confidence {self.confidence:g}: must be between 0.5 and 1 (0.95 for 95%)"
            )
        if not 0 <= self.margin < 1:
            raise UserError(f"--margin {self.margin:g}: must be at least 0 and below 1")
        if not 0 < self.budget <= 1:
            raise UserError(f"--budget {self.budget:g}: must be above 0 and at most 1")
        if self.first_round is not None and self.first_round < MIN_PROMPTS:
            raise UserError(
                f"--first-round {self.first_round}: must be at least {MIN_PROMPTS}: fewer "
                "prompts cannot decide a race"
            )
        check_least(self, 0, "seed")
