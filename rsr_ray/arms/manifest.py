"""manifest: what is said of arms, next to their folders."""

import dataclasses
import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rsr_ray.arms.flops import FORMULA
from rsr_ray.arms.pool import Request
from rsr_ray.choose.files import WrittenFile
from rsr_ray.choose.manifest import Criterion, Lengths, config_to_json
from rsr_ray.choose.summary import SetSums
from rsr_ray.config.arms import ArmsConfig


@dataclass(frozen=True)
class Arm:
    """One training set."""

    name: str
    folder: str
    rows: int
    prompts: int
    teachers: dict[str, int]  # rows of each
    tokens: int  # scored ones: the targets of training
    flops: float | None  # of one pass; None where arms were not matched by them
    # mean place of its rows by the metric, 0 the lowest to 1 the highest of the teacher, or of the
    # prompt where arms have the same prompts; and that of as many rows without any other condition
    place: float
    free_place: float | None  # None for random arms
    lengths: Lengths
    means: dict[str, float]  # metric -> its mean, as of a teacher
    files: list[WrittenFile] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)  # of the files, with their types


@dataclass(frozen=True)
class Common:
    """What two arms have in common."""

    arms: list[str]
    trajectories: int
    prompts: int


@dataclass(frozen=True)
class Audit:
    """Written rows, encoded as a trainer does, against the tokens that were scored."""

    rows: int
    same: int  # the tokens trained on are those scored
    differ: dict[str, int]  # why not -> rows
    examples: list[str]
    cut: int  # rows that the trainer cuts at --trainer-length
    longest: int  # tokens of the longest row


@dataclass(frozen=True)
class ArmsManifest:
    """Arms: how they were made, and what they are made of."""

    student: str
    fingerprint: str  # of the scores
    by: Criterion
    config: ArmsConfig
    rows: int  # scored ones: candidates + those dropped
    dropped: dict[str, int]  # reason -> rows, the most frequent first
    candidates: int
    arms: list[Arm]
    candidates_means: dict[str, float]
    spread: dict[str, float]  # tokens, flops -> largest arm / smallest - 1
    common: list[Common]
    flops_formula: str | None
    audit: Audit | None
    versions: dict[str, str]
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As manifest.json has it."""
        return dataclasses.asdict(self) | {"config": config_to_json(self.config)}


def describe_arms(
    request: Request,
    chosen: np.ndarray,
    sums: dict[str, SetSums],
    config: ArmsConfig,
) -> list[Arm]:
    """Each arm, without its files; `chosen` bool [A, N], `sums` by name."""
    offers, pool = request.offers, request.pool
    tokens = offers.numbers["n_tokens"]
    flops = dict(zip(request.measures, pool.measures, strict=True)).get("flops")
    arms = []
    for number, (name, rows) in enumerate(zip(config.arms, chosen, strict=True)):
        counts = np.bincount(pool.teacher[rows], minlength=len(request.teachers)).tolist()
        arms.append(
            Arm(
                name=name,
                folder=f"{config.out}/{name}",
                rows=int(rows.sum()),
                prompts=len(np.unique(offers.prompt[rows])),
                teachers={t: n for t, n in zip(request.teachers, counts, strict=True) if n},
                tokens=int(tokens[rows].sum()),
                flops=float(flops[rows].sum()) if flops is not None else None,
                place=float(request.place[rows].mean()),
                free_place=free_place(request, number, config),
                lengths=Lengths.of(sums[name].lengths),
                means=sums[name].means,
            )
        )
    return arms


def free_place(request: Request, arm: int, config: ArmsConfig) -> float | None:
    """The mean place of the rows that an arm would have by the metric and the quotas alone."""
    if config.arms[arm] not in ("low", "middle", "high"):
        return None
    pool = request.pool
    first = []
    for teacher in np.flatnonzero(request.wanted.quotas):
        own = np.flatnonzero(pool.teacher == teacher)
        by_cost = np.argsort(pool.costs[arm, own], kind="stable")
        first.append(own[by_cost[: request.wanted.quotas[teacher]]])
    return float(request.place[np.concatenate(first)].mean())


def in_common(request: Request, chosen: np.ndarray, names: tuple[str, ...]) -> list[Common]:
    """What each two arms have in common; `chosen` bool [A, N]."""
    prompts = [set(request.offers.prompt[rows].tolist()) for rows in chosen]
    return [
        Common(
            [names[a], names[b]], int((chosen[a] & chosen[b]).sum()), len(prompts[a] & prompts[b])
        )
        for a, b in itertools.combinations(range(len(names)), 2)
    ]


def spread_of(measures: dict[str, list[float]]) -> dict[str, float]:
    """By how much the largest arm is above the smallest in each measure, as a share."""
    return {name: max(of_arms) / min(of_arms) - 1 for name, of_arms in measures.items()}


def formula(config: ArmsConfig) -> str | None:
    return FORMULA if "flops" in config.match else None
