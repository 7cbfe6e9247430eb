"""score: encoded rows -> sums. One replica of the student an actor; a batch of Ray Data is one work unit.

Legend: B rows of a batch, T positions, N scored positions, D hidden size.
"""

import itertools
import json
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.batching import batches
from rsr_ray.lm_head import sweep
from rsr_ray.schema import SCORES
from rsr_ray.store import Store
from rsr_ray.student import Student
from rsr_ray.sums import sum_by_row
from rsr_ray.watch import Counters, attempt, log


class Score:
    """Ray Data actor UDF over units: ENCODED_ROWS in, their SCORES rows written to the store, a unit's bookkeeping out."""

    def __init__(
        self, student: dict[str, Any], r_max: int, batch_tokens: int, fingerprint: str, run_id: str, store: Store, window: int | None, per_turn: bool
    ):
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu":
            torch.set_num_threads(1)  # one thread a replica, so that the number of replicas changes no rounding
        self.student = Student(device=device, **student)
        self.r_max, self.fingerprint, self.run_id, self.store = r_max, fingerprint, run_id, store
        self.work, self.window, self.per_turn = Work(batch_tokens), window, per_turn
        self.counters = Counters(store.student_name)

    def __call__(self, unit: pa.Table) -> pa.Table:
        attempt()
        begun, self.work = time.perf_counter(), Work(self.work.batch_tokens)
        rows = pa.RecordBatch.from_struct_array(unit["rows"].combine_chunks().flatten())
        scored = pa.ListArray.from_arrays([0, rows.num_rows], self.score(rows).to_struct_array())
        unit = unit.set_column(unit.schema.get_field_index("rows"), "rows", scored)
        facts = {"seconds": time.perf_counter() - begun, "splits": self.work.splits, "padded": self.work.padded, "positions": self.work.positions}
        for name, value in facts.items():
            unit = unit.append_column(name, pa.array([value]))
        written = self.store.write_unit(unit, self.fingerprint)
        (told,) = written.to_pylist()
        self.counters.add(told, {reason: reject["n"] for reason, reject in json.loads(told["rejected"]).items()})
        log.info("unit written", extra={"run_id": self.run_id, "student": self.store.student_name, **told})
        return written

    def score(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """SCORES rows for ENCODED_ROWS rows, in their order."""
        scorable = rows["reject_reason"].is_null()
        ids = _arrays(rows["input_ids"].filter(scorable))
        spans = _arrays(rows["spans"].filter(scorable))
        sums, of_spans = self.sum_windows(ids, spans)
        finite = np.isfinite(sums["surprisal_sum"]) & np.isfinite(sums["entropy_sum"]) & (sums["surprisal_sum"] > 0)

        at = np.flatnonzero(scorable.to_numpy(zero_copy_only=False))
        failed = at[~finite]
        at = at[finite]
        reason, detail = rows["reject_reason"].to_pylist(), rows["reject_detail"].to_pylist()
        for i, n, total in zip(failed, sums["n_tokens"][~finite], sums["surprisal_sum"][~finite], strict=True):
            if n:
                reason[i], detail[i] = "non_finite_score", f"the surprisals add up to {total}"
            else:
                reason[i], detail[i] = "too_large_for_memory", f"{pc.list_value_length(rows['input_ids'])[i]} tokens do not fit beside the student"

        def column(values: np.ndarray) -> pa.Array:
            """Values of the scored rows, null for the others."""
            whole = np.zeros(rows.num_rows, values.dtype)
            missing = np.ones(rows.num_rows, bool)
            whole[at], missing[at] = values, False
            return pa.array(whole, mask=missing)

        turns: list[list[dict[str, Any]] | None] = [None] * rows.num_rows
        if self.per_turn:
            owners = _arrays(rows["span_turns"].filter(scorable))
            for i, n in zip(at, np.flatnonzero(finite), strict=True):
                turns[i] = sum_by_turn(of_spans[n], owners[n])

        good = {name: values[finite] for name, values in sums.items()}
        columns = {
            **{name: rows[name] for name in rows.schema.names if name in SCORES.names},
            "n_prompt_tokens": column(np.array([s[0] for s in spans], np.int64)[finite]),
            **{name: column(values) for name, values in good.items()},
            "mean_rank": column(good["rank_sum"] / good["n_tokens"]),
            "mean_surprisal": column(good["surprisal_sum"] / good["n_tokens"]),
            "mean_entropy": column(good["entropy_sum"] / good["n_tokens"]),
            "rsr": column(good["rank_sum"] / good["surprisal_sum"]),
            "turns": pa.array(turns, SCORES.field("turns").type),
            "truncated": pc.if_else(pa.array([r is None for r in reason]), rows["truncated"], None),
            "reject_reason": pa.array(reason, pa.string()),
            "reject_detail": pa.array(detail, pa.string()),
            "fingerprint": pa.repeat(self.fingerprint, rows.num_rows),
        }
        return pa.RecordBatch.from_arrays([columns[name] for name in SCORES.names], schema=SCORES)

    def sum_windows(self, ids: list[np.ndarray], spans: list[np.ndarray]) -> tuple[dict[str, np.ndarray], list["SpanSums"]]:
        """`score_spans`, with rows longer than the window scored in several; and of each row the sums of its spans, by span."""
        windows = [cut_windows(row, span, self.window) for row, span in zip(ids, spans, strict=True)]
        flat = list(itertools.chain.from_iterable(windows))
        sums, pieces = score_spans(self.student, [w.ids for w in flat], [w.spans for w in flat], self.work, self.r_max)
        of_spans = [SpanSums(w.which, p) for w, p in zip(flat, pieces, strict=True)]
        if len(flat) == len(ids):
            return sums, of_spans
        starts = np.cumsum([0, *map(len, windows[:-1])])
        total = {name: np.add.reduceat(values, starts) for name, values in sums.items()}
        total["n_tokens"][np.minimum.reduceat(sums["n_tokens"], starts) == 0] = 0  # a window that fits into no memory
        rows = [of_spans[a : a + len(w)] for a, w in zip(starts, windows, strict=True)]
        return total, [_joined(row) for row in rows]


class SpanSums(NamedTuple):
    """Sums of runs of scored tokens, and the span of the row that each lies in (a window may hold a part of one)."""

    which: np.ndarray  # int [P]
    sums: dict[str, np.ndarray]  # as `sum_by_row`, each [P]; {} for a row that did not fit into memory


def _joined(parts: list[SpanSums]) -> SpanSums:
    names = parts[0].sums
    return SpanSums(np.concatenate([p.which for p in parts]), {name: np.concatenate([p.sums[name] for p in parts if p.sums]) for name in names})


def sum_by_turn(of_spans: SpanSums, owners: np.ndarray) -> list[dict[str, Any]]:
    """The sums of each turn, in order; `owners` is the turn of each span of the row."""
    turns, place = np.unique(owners[of_spans.which], return_inverse=True)
    out: list[dict[str, Any]] = [{"turn": int(turn)} for turn in turns]
    for name, values in of_spans.sums.items():
        total = np.zeros(len(turns), values.dtype)
        np.add.at(total, place, values)
        for turn, value in zip(out, total.tolist(), strict=True):
            turn[name] = value
    return out


class Window(NamedTuple):
    """A part of a row that goes through the student by itself."""

    ids: np.ndarray
    spans: np.ndarray
    which: np.ndarray  # int [S]: the span of the row that each of `spans` is of


def cut_windows(ids: np.ndarray, spans: np.ndarray, window: int | None) -> list[Window]:
    """A row as windows that overlap by half, each scored token in the first that gives it half a window of context.

    The first window scores all its tokens, every later one those behind its middle. Windows without scored tokens are left out.
    """
    pairs = spans.reshape(-1, 2)
    if window is None or len(ids) <= window:
        return [Window(ids, spans, np.arange(len(pairs)))]
    half, out = window // 2, []
    for start in range(0, len(ids) - half, window - half):
        first, stop = (start + half if start else 0), start + window
        inside = np.clip(pairs, first, stop) - start
        which = np.flatnonzero(inside[:, 0] < inside[:, 1])
        if len(which):
            inside = inside[which]
            out.append(Window(ids[start : start + int(inside[-1, 1])], inside.astype(np.int32).reshape(-1), which))
    return out


@dataclass
class Work:
    """The batch budget of a replica, which shrinks where memory runs out, and what its batches held."""

    batch_tokens: int
    splits: int = 0
    padded: int = 0  # positions, padding included
    positions: int = 0  # without it


def score_rows(student: Student, ids: list[np.ndarray], spans: list[np.ndarray], work: Work, r_max: int) -> dict[str, np.ndarray]:
    """Sums of each row, in the order given, as `sum_by_row` defines them."""
    return score_spans(student, ids, spans, work, r_max)[0]


def score_spans(
    student: Student, ids: list[np.ndarray], spans: list[np.ndarray], work: Work, r_max: int
) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """Sums of each row, in the order given, as `sum_by_row` defines them; and of each row the same of each of its spans.

    `ids` int32 [T] and `spans` int32 [2S] a row, as `encode` gives them: every span starts at 1 or later. A batch that does
    not fit into memory is split, and batches are smaller from then on; a row that does not fit alone has 0 tokens and sums
    that are not a number.
    """
    import torch

    lengths = np.array([len(row) - 1 for row in ids], np.int64)
    sums = {name: np.zeros(len(ids), np.int64) for name in ("n_tokens", "rank_sum")}
    sums |= {name: np.full(len(ids), np.nan) for name in ("surprisal_sum", "entropy_sum")}
    of_spans: list[dict[str, np.ndarray]] = [{} for _ in ids]
    left = batches(lengths, work.batch_tokens, packed=student.packed)
    while left:
        batch = left.pop(0)
        size = int(lengths[batch].sum()) if student.packed else len(batch) * int(lengths[batch].max())
        try:
            part, pieces = _score_batch(student, [ids[i] for i in batch], [spans[i] for i in batch], r_max)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            if len(batch) == 1:
                continue
            work.splits += 1
            work.batch_tokens = size // 2
            rows = np.concatenate([batch, *left])
            left = [rows[again] for again in batches(lengths[rows], work.batch_tokens, packed=student.packed)]
            continue
        work.padded += size
        work.positions += int(lengths[batch].sum())
        for name, values in part.items():
            sums[name][batch] = values
        for i, piece in zip(batch, pieces, strict=True):
            of_spans[i] = piece
    return sums, of_spans


def _score_batch(
    student: Student, ids: list[np.ndarray], spans: list[np.ndarray], r_max: int
) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    import torch

    rows = [row[:-1].astype(np.int64) for row in ids]  # the last token is only ever a target
    scored = [np.concatenate([np.arange(a, b) for a, b in s.reshape(-1, 2)]) for s in spans]
    if student.packed:
        ids_BT = np.concatenate(rows)[None]
        position_BT = np.concatenate([np.arange(len(row)) for row in rows])[None]
        starts = np.cumsum([0] + [len(row) for row in rows[:-1]])
    else:
        ids_BT = np.zeros((len(rows), max(map(len, rows))), np.int64)
        for b, row in enumerate(rows):
            ids_BT[b, : len(row)] = row
        position_BT = None
        starts = np.arange(len(rows)) * ids_BT.shape[1]
    # hidden state i predicts token i + 1
    source_N = torch.from_numpy(np.concatenate([start + p - 1 for start, p in zip(starts, scored, strict=True)])).to(student.head_device)
    target_N = torch.from_numpy(np.concatenate([row[p] for row, p in zip(ids, scored, strict=True)]).astype(np.int64)).to(student.head_device)
    with torch.inference_mode():
        hidden_ND = student.hidden(ids_BT, position_BT).flatten(0, 1)[source_N]
        stats = sweep(hidden_ND, target_N, student.logits, student.vocab_size)
        rank, surprisal, entropy = (values.cpu().numpy() for values in stats)
    sums = sum_by_row(rank, surprisal, entropy, np.array([len(p) for p in scored], np.int64), r_max)
    of_spans = sum_by_row(rank, surprisal, entropy, np.concatenate([np.diff(s.reshape(-1, 2))[:, 0] for s in spans]), r_max)
    borders = np.cumsum([len(s) // 2 for s in spans[:-1]])
    split = {name: np.split(values, borders) for name, values in of_spans.items()}
    return sums, [dict(zip(split, piece, strict=True)) for piece in zip(*split.values(), strict=True)]


def _arrays(lists: pa.ListArray) -> list[np.ndarray]:
    """The elements of a list array without nulls, without copying."""
    values, offsets = lists.values.to_numpy(), lists.offsets.to_numpy()
    return [values[a:b] for a, b in itertools.pairwise(offsets)]
