"""manifest: what is said of a choice, next to its files."""

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

import rsr_ray
from rsr_ray.choose.cap import CAP_RULE
from rsr_ray.choose.files import WrittenFile
from rsr_ray.choose.ranked import TIE_RULE
from rsr_ray.choose.summary import Moves, Summary
from rsr_ray.config.choose import ChooseConfig, PoolConfig
from rsr_ray.errors import RunError, UserError
from rsr_ray.metrics import CONTROLS


@dataclass(frozen=True)
class Criterion:
    """What the choice goes by."""

    name: str
    formula: str
    better: str  # lower or higher

    @classmethod
    def of(cls, config: PoolConfig) -> "Criterion":
        if config.metric:
            return cls(config.metric.name, config.metric.formula, config.metric.better)
        return cls(config.by, *CONTROLS[config.by])


@dataclass(frozen=True)
class PromptCounts:
    """The prompts of all scored rows."""

    all: int
    with_candidates: int
    without_candidates: int
    without_because: dict[str, int]  # a prompt counts under each reason for which it lost a row
    with_fewer_than_k: int

    @classmethod
    def of(cls, found: Summary) -> "PromptCounts":
        return cls(
            all=found.prompts,
            with_candidates=found.prompts - found.prompts_without,
            without_candidates=found.prompts_without,
            without_because=found.because,
            with_fewer_than_k=found.short_prompts,
        )


@dataclass(frozen=True)
class TeacherShare:
    """A teacher's part in the choice."""

    teacher: str
    chosen: int
    share: float  # of the chosen rows
    candidates: int
    mean_tokens: float | None  # of its chosen rows, if it has any

    @classmethod
    def all_of(cls, found: Summary) -> "list[TeacherShare]":
        """Those with the most chosen rows first, equal ones by name."""
        shares = [
            cls(
                teacher=name,
                chosen=counts.chosen,
                share=counts.chosen / found.n_chosen,
                candidates=counts.candidates,
                mean_tokens=counts.tokens / counts.chosen if counts.chosen else None,
            )
            for name, counts in found.teachers.items()
        ]
        return sorted(shares, key=lambda t: (-t.chosen, t.teacher))


@dataclass(frozen=True)
class Lengths:
    """Tokens of a set of trajectories.

    A percentile is the least length that at least that share of the trajectories does not exceed.
    """

    mean: float
    p0: int
    p5: int
    p25: int
    p50: int
    p75: int
    p95: int
    p100: int

    @classmethod
    def of(cls, lengths: dict[int, int]) -> "Lengths":
        """Of lengths with the number of trajectories that have each."""
        length = np.array(sorted(lengths))
        count = np.array([lengths[tokens] for tokens in sorted(lengths)])
        reached = np.cumsum(count) / count.sum()
        shares = [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0]
        mean = int((length * count).sum()) / int(count.sum())
        return cls(mean, *length[np.searchsorted(reached, shares)].tolist())


@dataclass(frozen=True)
class Ties:
    """Prompts that were cut between equal values, and what decided there."""

    prompts: int
    rule: str = TIE_RULE


@dataclass(frozen=True)
class Cap:
    """The limit on each teacher's share, and what it did."""

    max_share: float
    most: int  # rows that a teacher may have
    rule: str
    teachers: dict[str, Moves]
    moved: int
    left_out: int

    @classmethod
    def of(cls, max_share: float | None, found: Summary) -> "Cap | None":
        if max_share is None:
            return None
        return cls(
            max_share=max_share,
            most=int(Fraction(str(max_share)) * found.n_chosen),
            rule=CAP_RULE,
            teachers=found.capped,
            moved=sum(moves.moved_away for moves in found.capped.values()),
            left_out=sum(moves.left_out for moves in found.capped.values()),
        )


@dataclass(frozen=True)
class Manifest:
    """A choice: how it was made, and what it is made of."""

    student: str
    fingerprint: str  # of the scores
    by: Criterion
    config: ChooseConfig
    rows: int  # scored ones: candidates + those dropped
    dropped: dict[str, int]  # reason -> rows, the most frequent first
    candidates: int
    chosen: int
    prompts: PromptCounts
    teachers: list[TeacherShare]
    lengths: dict[str, Lengths]  # of the sets candidates, chosen and random
    means: dict[str, dict[str, float]]  # set -> metric -> its mean, as of a teacher
    ties: Ties
    cap: Cap | None
    versions: dict[str, str]  # of this package and those it is built on
    notes: list[str] = field(default_factory=list)  # what to know of the scores
    files: list[WrittenFile] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)  # of the files, with their types

    def to_json(self) -> dict[str, Any]:
        """As manifest.json has it."""
        return dataclasses.asdict(self) | {"config": config_to_json(self.config)}


def config_to_json(config: PoolConfig) -> dict[str, Any]:
    """Settings as a manifest has them."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(config).items()
    }


def most_frequent_first(dropped: Mapping[str, int]) -> dict[str, int]:
    """Reason -> rows, as a manifest has them."""
    return dict(sorted(dropped.items(), key=lambda item: (-item[1], item[0])))


def versions_of(*packages: str) -> dict[str, str]:
    """Of this package and those."""
    return {
        "rsr_ray": rsr_ray.__version__,
        **{name: importlib.metadata.version(name) for name in packages},
    }


def make_manifest(
    config: ChooseConfig, fingerprint: str, found: Summary, notes: list[str]
) -> Manifest:
    """The manifest of a choice without its files.

    Raises UserError if nothing was chosen, or an option names what is not there.
    """
    _check(config, found)
    return Manifest(
        student=config.student,
        fingerprint=fingerprint,
        by=Criterion.of(config),
        config=config,
        rows=found.rows,
        dropped=most_frequent_first(found.dropped),
        candidates=found.n_candidates,
        chosen=found.n_chosen,
        prompts=PromptCounts.of(found),
        teachers=TeacherShare.all_of(found),
        lengths={name: Lengths.of(some.lengths) for name, some in found.sets.items()},
        means={name: some.means for name, some in found.sets.items()},
        ties=Ties(found.tied_prompts),
        cap=Cap.of(config.max_share, found),
        versions=versions_of("ray", "pyarrow", "numpy"),
        notes=notes,
    )


def _check(config: ChooseConfig, found: Summary) -> None:
    """Raise UserError for what the user can change, RunError where rows are missing."""
    given = {"--teachers": config.teachers, "--exclude-teachers": config.exclude_teachers}
    for option, names in given.items():
        if unknown := sorted({*names} - {*found.seen}):
            raise UserError(
                f"{option} {unknown[0]}: not in the store; teachers: "
                f"{', '.join(sorted(found.seen))}"
            )
    if not found.n_chosen:
        raise UserError(f"nothing to choose: {_why_nothing(config, found)}")
    if config.complete_column and not found.said_complete:
        raise UserError(
            f"--complete-column {config.complete_column}: no row has a value in this column"
        )
    n_dropped = sum(found.dropped.values())
    if found.rows != found.n_candidates + n_dropped:
        raise RunError(
            f"rows are missing or counted twice: {found.rows:,} = {found.n_candidates:,} "
            f"candidates + {n_dropped:,} dropped does not hold; rerun the same command"
        )


def _why_nothing(config: ChooseConfig, found: Summary) -> str:
    dropped = found.dropped
    if config.max_share is not None and found.n_candidates:
        return (
            f"--max-share {config.max_share:g} cannot be met with {len(found.teachers)} teachers "
            "among the candidates; raise it"
        )
    if dropped.get("no_value"):
        way_out = f": score {config.metric.way_out}" if config.metric else ""
        return f"no candidate has a value for {config.criterion}{way_out}"
    if dropped.get("no_verdict") and not dropped.get("not_verified"):
        return f"--verified {config.verified}: no row has a value in this column"
    most_first = sorted(dropped.items(), key=lambda item: -item[1])
    why = ", ".join(f"{reason} {n:,}" for reason, n in most_first)
    return f"none of {found.rows:,} scored rows is a candidate: {why or 'the store has no rows'}"
