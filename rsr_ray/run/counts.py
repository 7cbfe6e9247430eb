"""What replicas tell of the units they wrote: its totals over a run, and to Prometheus."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from rsr_ray.corpus.row_faults import Row
from rsr_ray.store.rejects import Reject


@dataclass(frozen=True, kw_only=True)
class Added:
    """What was added to scores of an earlier run. These stay as they are, to the bit."""

    trajectories: int = 0
    # Of these, those whose token scores add up to others than are stored, in the last digits, and
    # those of which even the ranks do.
    other_sums: int = 0
    other_ranks: int = 0
    off: float = 0.0  # the largest difference of a sum, relatively
    problems: tuple[str, ...] = ()  # why nothing was added to units, a line each
    mark: str | None = None  # what a unit's file now says it has

    def __add__(self, more: "Added") -> "Added":
        return Added(
            trajectories=self.trajectories + more.trajectories,
            other_sums=self.other_sums + more.other_sums,
            other_ranks=self.other_ranks + more.other_ranks,
            off=max(self.off, more.off),
            problems=self.problems + more.problems,
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        return cls(**found | {"problems": tuple(found["problems"])})


@dataclass(frozen=True, kw_only=True)
class WrittenUnit:
    """The bookkeeping of a unit that was written, or added to: then it has no rows of its own."""

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
    added: Added | None = None  # None: its rows were scored

    @classmethod
    def of(cls, told: Row) -> Self:
        """From what `Score` returns, a row of it."""
        rejected = json.loads(told["rejected"])
        rejects = {reason: Reject(**reject) for reason, reject in rejected.items()}
        added = Added.from_json(json.loads(told["added"])) if told["added"] else None
        return cls(**told | {"rejected": rejects, "added": added})

    @property
    def shard(self) -> tuple[str, str]:
        """Key and version; of what is added to apart, because other rows may be new."""
        return self.key, self.version if self.added is None else again(self.version)

    @property
    def ends(self) -> bool:
        """Whether nothing is left to do in its shard."""
        return self.last if self.added is None else self.share == 1.0


def again(version: str) -> str:
    """The version of a shard's units that are added to."""
    return f"{version} again"


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
    added: Added | None = None

    def add(self, unit: WrittenUnit) -> None:
        self.n_units += 1
        if unit.added is not None:
            self.added = (self.added or Added()) + unit.added
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


class Counters:
    """A replica's work so far, for Prometheus:

    `ray_rsr_*` on the metrics port of its Ray node, while it lives.
    """

    def __init__(self, student: str):
        from ray.util.metrics import Counter, Gauge

        def tagged(kind: type, name: str, meaning: str, *more: str) -> Any:
            metric = kind(f"rsr_{name}", meaning, ("student", *more))
            metric.set_default_tags({"student": student})
            return metric

        self.trajectories = tagged(Counter, "trajectories", "trajectories scored")
        self.tokens = tagged(
            Counter,
            "tokens",
            "tokens that went through the student, by kind: scored or prompt",
            "kind",
        )
        self.rejects = tagged(Counter, "rejects", "rows rejected, by reason", "reason")
        self.tokens_per_second = tagged(
            Gauge,
            "tokens_per_second",
            "tokens per second of the replica's last work unit, prompts included",
        )
        self.padding_share = tagged(
            Gauge,
            "padding_share",
            "share of padding in the positions of the replica's last work unit",
        )

    def add(self, unit: WrittenUnit) -> None:
        """Count a unit that was written."""
        kinds = {"scored": unit.n_tokens, "prompt": unit.n_prompt_tokens}
        if unit.n_scored:
            self.trajectories.inc(unit.n_scored)
        for kind, n in kinds.items():
            if n:
                self.tokens.inc(n, {"kind": kind})
        for reason, reject in unit.rejected.items():
            self.rejects.inc(reject.n, {"reason": reason})
        if unit.padded:
            self.tokens_per_second.set(sum(kinds.values()) / unit.seconds)
            self.padding_share.set(1 - unit.positions / unit.padded)
