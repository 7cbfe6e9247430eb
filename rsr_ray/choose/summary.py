"""summary: what is counted and added up in each partition, and over all of them."""

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.choose.ranked import RankedCandidates
from rsr_ray.choose.rule import codes
from rsr_ray.config.choose import ChooseConfig
from rsr_ray.engine.sums import from_fixed, to_fixed
from rsr_ray.metrics import REGISTRY, Metric

AT_ONCE = 16  # texts of partitions that are looked at together


@dataclass(frozen=True)
class Moves:
    """What a cap on shares did to the rows of a teacher."""

    left_out: int = 0
    moved_away: int = 0
    moved_to: int = 0


@dataclass(frozen=True)
class TeacherCounts:
    """A teacher among the candidates."""

    candidates: int
    chosen: int
    tokens: int  # of the chosen


@dataclass(frozen=True)
class MetricSums:
    """The rows that have a metric, and the sums of its terms x and y in fixed point."""

    n: int
    x_whole: int
    x_part: int
    y_whole: int
    y_part: int

    @classmethod
    def of(
        cls, metric: Metric, rows: pa.Table, prompt: np.ndarray, some: np.ndarray
    ) -> "MetricSums":
        """Over the rows `some`, bool [N]."""
        columns = {name: rows[name].to_numpy() for name in metric.columns}
        with np.errstate(divide="ignore", invalid="ignore"):
            x, y = metric.terms(columns, prompt)
        there = some & np.isfinite(x) & np.isfinite(y)
        x_whole, x_part = to_fixed(x[there])
        y_whole, y_part = to_fixed(y[there])
        parts = (there, x_whole, x_part, y_whole, y_part)
        return cls(*(int(part.sum()) for part in parts))

    @property
    def mean(self) -> float:
        """Mean x / mean y, as the metric of a teacher is."""
        return from_fixed(self.x_whole, self.x_part) / from_fixed(self.y_whole, self.y_part)


@dataclass(frozen=True)
class SetSums:
    """A set of trajectories: how many, how long, and the sums that its means are made of."""

    n: int
    lengths: dict[int, int]  # tokens -> rows of this length
    metrics: dict[str, MetricSums]

    @classmethod
    def of(
        cls, rows: pa.Table, prompt: np.ndarray, some: np.ndarray, by: Metric | None
    ) -> "SetSums":
        """Of the rows `some`, bool [N], by every metric and what the choice goes by."""
        lengths, counts = np.unique(rows["n_tokens"].to_numpy()[some], return_counts=True)
        return cls(
            n=int(some.sum()),
            lengths=dict(zip(lengths.tolist(), counts.tolist(), strict=True)),
            metrics={
                metric.name: MetricSums.of(metric, rows, prompt, some)
                for metric in (*REGISTRY.values(), *([by] if by and by.segment else []))
            },
        )

    @property
    def means(self) -> dict[str, float]:
        """Metric -> its mean, as of a teacher."""
        return {name: sums.mean for name, sums in self.metrics.items() if sums.n}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "SetSums":
        return cls(
            n=found["n"],
            lengths={int(length): n for length, n in found["lengths"].items()},
            metrics={name: MetricSums(**sums) for name, sums in found["metrics"].items()},
        )


@dataclass(frozen=True)
class RowCounts:
    """What is counted of rows, of one partition or of all. Empty if there was no row."""

    rows: int = 0
    seen: dict[str, int] = field(default_factory=dict)  # teacher -> rows
    said_complete: int = 0  # rows that say whether they are complete
    guarded: int = 0  # rows of which it is known whether they are degenerate
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> rows

    @staticmethod
    def of_rows(rows: pa.Table) -> "RowCounts":
        """Of CANDIDATES rows."""
        return RowCounts(
            rows=rows.num_rows,
            seen=counts_of(rows["teacher"]),
            said_complete=rows.num_rows - rows["complete"].null_count,
            guarded=pc.sum(rows["is_guarded"]).as_py() or 0,
            dropped=counts_of(rows["dropped"]),
        )


@dataclass(frozen=True)
class Summary(RowCounts):
    """What a choice counted, of one partition or of all. Empty if there was no row."""

    prompts: int = 0
    prompts_without: int = 0  # prompts that have no candidate
    because: dict[str, int] = field(default_factory=dict)  # reason -> such prompts that lost a row
    short_prompts: int = 0  # prompts with fewer than k candidates, but with one
    tied_prompts: int = 0  # prompts cut between equal values
    capped: dict[str, Moves] = field(default_factory=dict)  # by teacher; of all partitions only
    teachers: dict[str, TeacherCounts] = field(default_factory=dict)
    sets: dict[str, SetSums] = field(default_factory=dict)  # chosen, candidates, random

    @classmethod
    def of(
        cls,
        rows: pa.Table,
        ranked: RankedCandidates,
        chosen: np.ndarray,
        config: ChooseConfig,
    ) -> "Summary":
        """Of a partition: all its rows, its candidates, and which of them are chosen, bool [N]."""
        named = rows.filter(pc.not_equal(rows["prompt_id"], ""))
        lost = _without_candidate(named)
        sets = {
            "chosen": chosen,
            "candidates": np.ones_like(chosen),
            "random": ranked.chosen_by_chance(chosen, config.seed),
        }
        return cls(
            **vars(RowCounts.of_rows(rows)),
            prompts=len(pc.unique(named["prompt_id"])),
            prompts_without=len(pc.unique(lost["prompt_id"])),
            because=counts_of(lost.group_by(["prompt_id", "dropped"]).aggregate([])["dropped"]),
            short_prompts=int((ranked.candidates_of_prompt < config.k).sum()),
            tied_prompts=ranked.n_tied(config.k),
            teachers=_count_teachers(ranked.rows, chosen),
            sets={
                name: SetSums.of(ranked.rows, ranked.prompt, some, config.metric)
                for name, some in sets.items()
            },
        )

    @property
    def n_candidates(self) -> int:
        return self.sets["candidates"].n if self.sets else 0

    @property
    def n_chosen(self) -> int:
        return self.sets["chosen"].n if self.sets else 0

    @classmethod
    def added(cls, texts: Iterable[str]) -> "Summary":
        """Those of partitions, each as `to_text` gives it, added up."""
        found = added_texts(texts)
        if not found:
            return cls()
        teachers = {name: TeacherCounts(**counts) for name, counts in found["teachers"].items()}
        sets = {name: SetSums.from_json(sums) for name, sums in found["sets"].items()}
        return cls(**found | {"teachers": teachers, "sets": sets})

    def to_text(self) -> str:
        """As JSON, which travels between tasks."""
        return json.dumps(self, default=vars)


def added_texts(texts: Iterable[str]) -> Any:
    """What partitions tell as JSON, added up some at a time: each has thousands of lengths."""
    left, total = iter(texts), list[Any]()
    while some := list(itertools.islice(left, AT_ONCE)):
        total = [added([*total, *map(json.loads, some)])]
    return total[0] if total else {}


def added(parts: list[Any]) -> Any:
    """JSON values added up: numbers are summed, mappings key by key, with their keys sorted."""
    if not parts:
        return {}
    if isinstance(parts[0], dict):
        keys = sorted({key for part in parts for key in part})
        return {key: added([part[key] for part in parts if key in part]) for key in keys}
    return sum(parts)


def counts_of(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value occurs, null aside."""
    counts = column.drop_null().value_counts().to_pylist()
    return {entry["values"]: entry["counts"] for entry in counts}


def _without_candidate(rows: pa.Table) -> pa.Table:
    """The rows of those prompts that have no candidate."""
    prompt = codes(rows["prompt_id"])
    candidate = pc.is_null(rows["dropped"]).to_numpy(zero_copy_only=False)
    has_candidate = np.bincount(prompt, candidate) > 0
    return rows.filter(pa.array(~has_candidate[prompt]))


def _count_teachers(rows: pa.Table, chosen: np.ndarray) -> dict[str, TeacherCounts]:
    """The teachers of candidates, of which `chosen`, bool [N], are the choice."""
    table = pa.table(
        {
            "teacher": rows["teacher"],
            "chosen": chosen.astype(np.int64),
            "tokens": np.where(chosen, rows["n_tokens"].to_numpy(), 0),
        }
    )
    sums = table.group_by("teacher").aggregate(
        [("teacher", "count"), ("chosen", "sum"), ("tokens", "sum")]
    )
    return {
        t["teacher"]: TeacherCounts(t["teacher_count"], t["chosen_sum"], t["tokens_sum"])
        for t in sums.to_pylist()
    }
