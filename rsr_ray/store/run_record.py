"""The record of a run, runs/<run_id>.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from rsr_ray.store.records import read_as
from rsr_ray.store.seal import Record
from rsr_ray.student.facts import StudentFacts


@dataclass(frozen=True, kw_only=True)
class Equation:
    """The rows of a run: read = scored + rejected + scored already."""

    read: int
    scored: int
    rejected: dict[str, int]  # by reason, the most frequent first
    already_scored: int
    holds: bool


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a run takes of the cluster; all 0 but the dtype where nothing was to be scored."""

    replicas: int
    gpus_per_replica: int
    dtype: str
    batch_tokens: int

    def to_json(self) -> dict[str, Any]:
        used = asdict(self)
        return used if self.replicas else {name: used[name] for name in ("replicas", "dtype")}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What doctor expected of a run: prompts are among the tokens, and the start of the run is in
    the hours.
    """

    made: str  # ISO 8601, UTC
    fingerprint: str
    trajectories: float
    tokens: float
    replicas: int
    hours: float
    hours_low: float
    hours_high: float


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What is kept of a run.

    None is what a record of an earlier version lacks. It has at least a fingerprint, the config
    and the student.
    """

    run_id: str
    fingerprint: str
    scores_version: int | None
    config: Record  # the settings by name
    max_length: int
    shape: str
    plan: Record | None  # how the corpus was read
    student: StudentFacts
    identity: str
    resources: Resources
    versions: dict[str, str]  # of packages
    equation: Equation
    reject_examples: dict[str, str]  # of each reason one
    replaced_while_read: list[str]  # shards
    broken_units: list[str]  # names
    not_in_corpus: dict[str, int]  # shards and rows that count all the same; {} for none
    notes: list[str]
    scored_tokens: int
    prompt_tokens: int
    padding_share: float | None  # None where nothing was scored
    out_of_memory_splits: int
    seconds: float
    replica_seconds: float
    tokens_per_second: float
    driver_peak_rss_bytes: int
    estimate: Estimate | None  # that doctor made before it; None where it was not asked
    other: Record = field(default_factory=dict)  # what another version wrote beside these

    def to_json(self) -> dict[str, Any]:
        told = asdict(self) | {"resources": self.resources.to_json()}
        other: Record = told.pop("other")
        return told | other

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "RunRecord":
        """A record of `to_json`, of this version or another one."""
        named = {field.name for field in fields(cls)}
        parts = {"student": StudentFacts, "resources": Resources, "equation": Equation}
        typed = {name: read_as(part, found.get(name) or {}) for name, part in parts.items()}
        estimate = found.get("estimate")
        typed["estimate"] = read_as(Estimate, estimate) if estimate else None
        other = {name: value for name, value in found.items() if name not in named}
        return read_as(cls, {**found, **typed, "other": other})
