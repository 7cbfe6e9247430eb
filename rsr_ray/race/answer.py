"""answer: what a race found out, as it is printed and kept in race.json."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from rsr_ray.config.race import RaceConfig


@dataclass(frozen=True)
class Measured:
    """A teacher's value and interval when it was last looked at, in the metric's own direction."""

    value: float
    low: float | None  # if exact, the value itself; None if nothing is known of the interval
    high: float | None
    exact: bool  # every prompt was tried, so there is nothing to infer
    n_prompts: int  # that every teacher then in the race had a score for
    round: int  # 1-based


@dataclass(frozen=True)
class Leader:
    """The teacher with the best value after a round."""

    teacher: str
    measured: Measured

    def to_json(self) -> dict[str, Any]:
        return {"teacher": self.teacher, **dataclasses.asdict(self.measured)}


@dataclass(frozen=True)
class Round:
    """What one round of a race decided."""

    round: int  # 1-based
    run_id: str | None  # of the run that scored its rows; None if there was nothing to score
    prompts: int  # so far, over all rounds
    of_prompts: int
    prompts_compared: int  # with a score of every teacher still in
    by: str
    leader: Leader | None
    alive: list[str]
    left: dict[str, str]  # teachers that left after it, and why
    cost_share: float  # so far, of scoring every matched trajectory

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"leader": self.leader and self.leader.to_json()}


@dataclass(frozen=True)
class TeacherStanding:
    """A teacher's place in the answer."""

    teacher: str
    measured: Measured | None  # None if it was never compared
    left_after_round: int | None
    why: str | None  # it left

    def to_json(self) -> dict[str, Any]:
        return {
            "teacher": self.teacher,
            **(dataclasses.asdict(self.measured) if self.measured else {}),
            "left_after_round": self.left_after_round,
            "why": self.why,
        }


@dataclass(frozen=True)
class FullCost:
    """Of scoring every matched trajectory."""

    trajectories: int
    chars: int


@dataclass(frozen=True)
class Spent:
    """What the race had to score."""

    cost_share: float  # of the full cost, by characters
    trajectories: int
    chars: int
    scored_tokens: int
    prompt_tokens: int


@dataclass(frozen=True)
class Taken:
    """What the store had scored already."""

    cost_share: float
    trajectories: int


@dataclass(frozen=True)
class RaceAnswer:
    """The answer of a race, or how far it came."""

    race_id: str
    student: str
    by: str
    better: str  # lower or higher
    decided: bool
    winner: str | None
    reason: str  # why the race is over, or goes no further
    next_cost_share: float | None  # cost_share after one more round; None if the race is over
    alive: list[str]
    confidence: float
    margin: float
    budget: float
    teachers: list[TeacherStanding]  # best first
    rounds: list[Round]
    matched_prompts: int
    unreadable_rows: int
    full: FullCost
    spent: Spent
    taken_from_store: Taken
    rejected: dict[str, int]  # reason -> rows that the race looked at, the most frequent first
    degenerate: int  # scored rows that the race looked at and left out
    config: RaceConfig
    fingerprint: str

    @property
    def n_rejected(self) -> int:
        return sum(self.rejected.values())

    @property
    def n_rows(self) -> int:
        """Trajectories that the race looked at."""
        return self.spent.trajectories + self.taken_from_store.trajectories

    def to_json(self) -> dict[str, Any]:
        """As race.json has it."""
        return dataclasses.asdict(self) | {
            "teachers": [standing.to_json() for standing in self.teachers],
            "rounds": [entry.to_json() for entry in self.rounds],
        }
