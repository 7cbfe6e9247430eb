"""What replicas tell of the units they wrote, and its totals over a run."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Reject:
    """The rows of a unit that are rejected for one reason."""

    n: int
    example: str  # which row, and what is wrong with it


@dataclass(frozen=True, kw_only=True)
class WrittenUnit:
    """The bookkeeping of a unit that was written."""

    file: str
    key: str  # of the shard
    version: str
    start: int  # rows [start, stop) of the shard
    stop: int
    last: bool  # the shard ends with it
    share: float  # of the shard, read up to here
    n_rows: int
    n_scored: int
    n_tokens: int  # scored
    n_prompt_tokens: int
    rejected: dict[str, Reject]  # by reason
    seconds: float  # of the replica
    splits: int  # of batches, for memory
    padded: int  # positions, padding included
    positions: int  # without it

    @classmethod
    def of(cls, told: dict[str, Any]) -> Self:
        """From what `Score` returns, a row of it."""
        rejected = json.loads(told["rejected"])
        rejects = {reason: Reject(**reject) for reason, reject in rejected.items()}
        return cls(**told | {"rejected": rejects})

    @property
    def shard(self) -> tuple[str, str]:
        return self.key, self.version


@dataclass
class Counts:
    """What a run has scored and rejected so far, added up unit by unit."""

    n_units: int = 0
    n_rows: int = 0
    n_scored: int = 0
    n_tokens: int = 0
    n_prompt_tokens: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)  # of each reason the first
    replica_seconds: float = 0.0
    splits: int = 0
    padded: int = 0
    positions: int = 0

    def add(self, unit: WrittenUnit) -> None:
        self.n_units += 1
        self.n_rows += unit.n_rows
        self.n_scored += unit.n_scored
        self.n_tokens += unit.n_tokens
        self.n_prompt_tokens += unit.n_prompt_tokens
        for reason, reject in unit.rejected.items():
            self.rejected[reason] += reject.n
            self.examples.setdefault(reason, reject.example)
        self.replica_seconds += unit.seconds
        self.splits += unit.splits
        self.padded += unit.padded
        self.positions += unit.positions

    @property
    def n_all_tokens(self) -> int:
        """Tokens that went through the student, prompts included."""
        return self.n_tokens + self.n_prompt_tokens

    @property
    def padding_share(self) -> float | None:
        """Of all positions; None before there is one."""
        return 1 - self.positions / self.padded if self.padded else None
