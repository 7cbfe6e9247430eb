"""score: encoded rows -> score rows.

One replica of the student an actor; a batch of Ray Data is one work unit.
"""

import itertools
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rsr_ray.encode.segments import segment_names
from rsr_ray.engine.scoring import Work
from rsr_ray.engine.steps import StepsOfRow, score_steps
from rsr_ray.engine.sums import (
    PartSums,
    Tokens,
    metric_sums_by_row,
    sum_by_segment,
    sum_by_turn,
    sum_within_sentences,
    turn_lengths,
)
from rsr_ray.engine.windows import score_windows
from rsr_ray.errors import BadRow
from rsr_ray.run.adding import Adder
from rsr_ray.run.counts import Counters, WrittenUnit
from rsr_ray.run.score_table import Rejects, RowSums, score_table, token_table
from rsr_ray.store.beside import Beside, Generation
from rsr_ray.store.store import Store
from rsr_ray.store.units import unit_name
from rsr_ray.student.facts import StudentFacts
from rsr_ray.student.model import Student
from rsr_ray.watch import attempt, log, on_ray

if TYPE_CHECKING:
    from rsr_ray.config.score import ScoreConfig


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is computed of a row, and what of it is kept."""

    r_max: int
    window: int | None = None  # rows with more tokens go through the student in windows of so many
    per_turn: bool = False
    segments: tuple[str, ...] | None = None  # their names, if their sums are wanted
    # of local naturalness: steps before a step, or their share; None: it is not wanted
    step_window: float | None = None
    token_scores: bool = False

    @classmethod
    def of(cls, config: "ScoreConfig", max_length: int) -> "Wanted":
        """What the settings of a run say."""
        named = config.named_segments
        return cls(
            r_max=config.r_max,
            window=max_length if config.over_length == "window" else None,
            per_turn=config.per_turn,
            segments=None if named is None else tuple(segment_names(named)),
            step_window=config.step_window if config.local else None,
            token_scores=config.token_scores,
        )


@dataclass(frozen=True, kw_only=True)
class Replica:
    """What a replica loads, computes and writes."""

    student: StudentFacts
    dtype: str
    trust_remote_code: bool
    spread: bool  # over several GPUs
    quantize: str | None
    wanted: Wanted
    batch_tokens: int
    generation: Generation
    beside: Beside  # what is asked for beside the scores
    loads: bool  # whether anything is left for the student to do
    run_id: str
    store: Store

    def load(self, device: str) -> Student:
        return Student(
            self.student.source,
            self.dtype,
            device,
            trust_remote_code=self.trust_remote_code,
            spread=self.spread,
            quantize=self.quantize,
            expected=self.student,
        )


class Score:
    """Ray Data actor UDF over units:

    ENCODED_ROWS in, their SCORES rows written to the store, a unit's bookkeeping out.
    """

    def __init__(self, replica: Replica):
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu":
            # one thread a replica, so that the number of replicas changes no rounding
            torch.set_num_threads(1)
        self.scorer = Scorer(
            replica.load(device) if replica.loads else None,
            replica.wanted,
            replica.batch_tokens,
            replica.generation.fingerprint,
        )
        self.run_id = replica.run_id
        self.store = replica.store
        self.beside = replica.beside
        self.adder = Adder(self.scorer, replica.store, replica.generation, replica.beside)
        self.counters = Counters(self.store.student_name) if on_ray() else None

    def __call__(self, unit: pa.Table) -> pa.Table:
        attempt()
        begun = time.perf_counter()
        scorer = self.scorer
        scorer.work = Work(scorer.work.batch_tokens)
        rows = pa.RecordBatch.from_struct_array(unit["rows"].combine_chunks().flatten())
        is_scored = unit["again"][0].as_py()
        unit = unit.drop_columns(["again"])
        write = self._add_to if is_scored else self._write
        written = write(unit, rows, begun)
        self._tell(written)
        return written

    def _write(self, unit: pa.Table, rows: pa.RecordBatch, begun: float) -> pa.Table:
        """Score the rows of a unit, and write it; its bookkeeping."""
        scorer = self.scorer
        scores, tokens = scorer.score(rows)
        if tokens is not None:  # before the scores: a unit that has a file has all
            (named,) = unit.drop_columns(["rows"]).to_pylist()
            name = unit_name(named)
            self.store.write_tokens(scorer.fingerprint, name, tokens, scorer.wanted.r_max)
        unit = unit.set_column(
            unit.schema.get_field_index("rows"),
            "rows",
            pa.ListArray.from_arrays([0, rows.num_rows], scores.to_struct_array()),
        )
        for name, value in self._facts(begun).items():
            unit = unit.append_column(name, pa.array([value]))
        return self.store.write_unit(unit, scorer.fingerprint, self.beside)

    def _add_to(self, unit: pa.Table, rows: pa.RecordBatch, begun: float) -> pa.Table:
        """Add to a unit of the store what it lacks; its bookkeeping, as `_write` gives it."""
        (named,) = unit.drop_columns(["rows"]).to_pylist()
        name = unit_name(named)
        added, passed = self.adder.add_to(name, rows)
        told = named | self._facts(begun) | {"added": json.dumps(added.to_json()), "file": name}
        told |= {"n_rows": 0, "n_scored": 0, **passed, "rejected": "{}"}
        return pa.table({key: [value] for key, value in told.items()})

    def _facts(self, begun: float) -> dict[str, Any]:
        """Of the unit that was begun then, what it took."""
        work = self.scorer.work
        return {
            "seconds": time.perf_counter() - begun,
            "splits": work.splits,
            "padded": work.padded,
            "positions": work.positions,
            "added": "",
        }

    def _tell(self, written: pa.Table) -> None:
        """A unit's bookkeeping, to Prometheus and the log."""
        (told,) = written.to_pylist()
        if self.counters is not None:
            self.counters.add(WrittenUnit.of(told))
        log.info(
            "unit written",
            extra={"run_id": self.run_id, "student": self.store.student_name, **told},
        )


class Scorer:
    """A student, and what is computed of rows with it. Knows nothing of Ray.

    Without a student it only adds up tokens that were scored before.
    """

    def __init__(
        self, student: Student | None, wanted: Wanted, batch_tokens: int, fingerprint: str
    ):
        self.student = student
        self.wanted = wanted
        self.fingerprint = fingerprint
        self.work = Work(batch_tokens)

    def score(self, rows: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.Table | None]:
        """SCORES rows for ENCODED_ROWS rows, in their order, and TOKENS of the scored ones where
        they are wanted.
        """
        scorable = np.flatnonzero(rows["reject_reason"].is_null().to_numpy(zero_copy_only=False))
        some = rows.take(pa.array(scorable))
        rejects = Rejects.of(rows)
        at: list[int] = []  # rows that have scores
        tokens: list[Tokens] = []
        for place, row in zip(scorable.tolist(), self.tokens_of(some), strict=True):
            if isinstance(row, BadRow):
                rejects.add(place, row.reason, row.detail)
                continue
            at.append(place)
            tokens.append(row)

        scored = rows.take(pa.array(at, pa.int64()))
        sums = self._sums(np.array(at, np.int64), scored, tokens)
        scores = score_table(rows, sums, rejects, self.fingerprint)
        kept = token_table(scored, tokens) if self.wanted.token_scores else None
        return scores, kept

    def tokens_of(self, rows: pa.RecordBatch) -> list[Tokens | BadRow]:
        """The scored tokens of ENCODED_ROWS rows that are not rejected, or why a row has none."""
        assert self.student is not None
        ids, spans = _arrays(rows["input_ids"]), _arrays(rows["spans"])
        images = _images(rows)
        found = score_windows(self.student, ids, spans, self.work, self.wanted.window, images)
        return [_whole(row, len(of_row)) for row, of_row in zip(found, ids, strict=True)]

    def _sums(self, at: np.ndarray, rows: pa.RecordBatch, tokens: list[Tokens]) -> RowSums:
        """What is wanted of scored rows, ENCODED_ROWS rows with their tokens."""
        wanted = self.wanted
        if not tokens:
            return RowSums(at, {})
        lengths = np.array([len(row.rank) for row in tokens])
        whole = Tokens.join(tokens)
        sums = metric_sums_by_row(whole, lengths, wanted.r_max)
        spans = _arrays(rows["spans"])
        sums["n_prompt_tokens"] = np.array([row[0] for row in spans], np.int64)
        sentences = rows["sentences"].flatten().to_numpy()
        sums |= sum_within_sentences(whole, lengths, sentences)
        if wanted.step_window is not None:
            steps = _arrays(rows["steps"])
            sums["n_steps"] = np.array([len(row) // 2 for row in steps], np.int64)
            stops = [row and np.array(row) for row in rows["image_stops"].to_pylist()]
            of_rows = (_arrays(rows["input_ids"]), spans, steps, _images(rows), stops)
            with_steps = [StepsOfRow(*row) for row in zip(*of_rows, strict=True)]
            assert self.student is not None
            sums["step_surprisal_sum"] = score_steps(
                self.student, with_steps, self.work, wanted.step_window, wanted.window
            )
        return RowSums(at, sums, self.parts(rows, tokens, whole, lengths))

    def parts(
        self, rows: pa.RecordBatch, tokens: list[Tokens], whole: Tokens, lengths: np.ndarray
    ) -> dict[str, list[list[PartSums]]]:
        """The sums of the rows' parts that are wanted, by column of SCORES.

        `whole` has the tokens of all rows, `lengths` [R] how many each row has.
        """
        parts: dict[str, list[list[PartSums]]] = {}
        r_max = self.wanted.r_max
        if self.wanted.per_turn:
            runs = zip(_arrays(rows["spans"]), _arrays(rows["span_turns"]), strict=True)
            parts["turns"] = [
                sum_by_turn(row, *turn_lengths(*of_row), r_max)
                for row, of_row in zip(tokens, runs, strict=True)
            ]
        if names := self.wanted.segments:
            segments = rows["token_segments"].flatten().to_numpy()
            parts["segments"] = sum_by_segment(whole, lengths, segments, names, r_max)
        return parts


def _whole(row: Tokens | None, n_tokens: int) -> Tokens | BadRow:
    """The tokens of a row, or why it has no score."""
    if row is None:
        detail = f"{n_tokens} tokens do not fit into memory with the student"
        return BadRow("too_large_for_memory", detail)
    total = row.surprisal_total
    if not math.isfinite(total) or total <= 0:
        return BadRow("non_finite_score", f"the surprisals add up to {total}")
    return row


def _images(rows: pa.RecordBatch) -> list[Sequence[bytes]]:
    """Those of each row, as they are stored."""
    return [row or () for row in rows["images"].to_pylist()]


def _arrays(lists: pa.ListArray) -> list[np.ndarray]:
    """The elements of a list array without nulls, without copying."""
    values = lists.values.to_numpy()
    offsets = lists.offsets.to_numpy()
    return [values[a:b] for a, b in itertools.pairwise(offsets)]
