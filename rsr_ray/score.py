"""score: encoded rows -> sums. One replica of the student an actor; a batch of Ray Data is one work unit.

Legend: B rows of a batch, T positions, N scored positions, D hidden size.
"""

import itertools
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.batching import batches
from rsr_ray.lm_head import sweep
from rsr_ray.schema import SCORES, TOKENS
from rsr_ray.store import Store
from rsr_ray.student import Student
from rsr_ray.sums import Tokens, metric_sums_by_row, sum_by_row
from rsr_ray.watch import Counters, attempt, log

if TYPE_CHECKING:
    from rsr_ray.config import ScoreConfig

CONTEXT_TOKENS = 1 << 24  # tokens of short contexts that are held at once


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is computed of a row, and what of it is kept."""

    r_max: int
    window: int | None = None  # rows with more tokens go through the student in windows of so many
    per_turn: bool = False
    step_window: float | None = None  # of local naturalness: steps before a step, or their share; None: it is not wanted
    token_scores: bool = False

    @classmethod
    def of(cls, config: "ScoreConfig", max_length: int) -> "Wanted":
        """What the settings of a run say."""
        return cls(
            r_max=config.r_max,
            window=max_length if config.over_length == "window" else None,
            per_turn=config.per_turn,
            step_window=config.step_window if config.local else None,
            token_scores=config.token_scores,
        )


class Score:
    """Ray Data actor UDF over units: ENCODED_ROWS in, their SCORES rows written to the store, a unit's bookkeeping out."""

    def __init__(self, student: dict[str, Any], wanted: Wanted, batch_tokens: int, fingerprint: str, run_id: str, store: Store):
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu":
            torch.set_num_threads(1)  # one thread a replica, so that the number of replicas changes no rounding
        self.student = Student(device=device, **student)
        self.wanted, self.fingerprint, self.run_id, self.store = wanted, fingerprint, run_id, store
        self.work = Work(batch_tokens)
        self.counters = Counters(store.student_name)

    def __call__(self, unit: pa.Table) -> pa.Table:
        attempt()
        begun, self.work = time.perf_counter(), Work(self.work.batch_tokens)
        rows = pa.RecordBatch.from_struct_array(unit["rows"].combine_chunks().flatten())
        scores, tokens = self.score(rows)
        if tokens is not None:  # before the scores: a unit that has a file has all
            self.store.write_tokens(unit, tokens, self.fingerprint, self.wanted.r_max)
        unit = unit.set_column(unit.schema.get_field_index("rows"), "rows", pa.ListArray.from_arrays([0, rows.num_rows], scores.to_struct_array()))
        facts = {"seconds": time.perf_counter() - begun, "splits": self.work.splits, "padded": self.work.padded, "positions": self.work.positions}
        for name, value in facts.items():
            unit = unit.append_column(name, pa.array([value]))
        written = self.store.write_unit(unit, self.fingerprint)
        (told,) = written.to_pylist()
        self.counters.add(told, {reason: reject["n"] for reason, reject in json.loads(told["rejected"]).items()})
        log.info("unit written", extra={"run_id": self.run_id, "student": self.store.student_name, **told})
        return written

    def score(self, rows: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.Table | None]:
        """SCORES rows for ENCODED_ROWS rows, in their order, and TOKENS of the scored ones where they are wanted."""
        scorable = np.flatnonzero(rows["reject_reason"].is_null().to_numpy(zero_copy_only=False))
        some = rows.take(pa.array(scorable))
        ids, spans = _arrays(some["input_ids"]), _arrays(some["spans"])
        found = score_windows(self.student, ids, spans, self.work, self.wanted.window)

        reason, detail = rows["reject_reason"].to_pylist(), rows["reject_detail"].to_pylist()
        good, tokens = [], []
        for n, (at, row) in enumerate(zip(scorable, found, strict=True)):
            total = math.nan if row is None else float(row.surprisal.sum(dtype=np.float64) + 0 * row.entropy.sum(dtype=np.float64))
            if row is None:
                reason[at], detail[at] = "too_large_for_memory", f"{len(ids[n])} tokens do not fit beside the student"
            elif not math.isfinite(total) or total <= 0:
                reason[at], detail[at] = "non_finite_score", f"the surprisals add up to {total}"
            else:
                good.append(n)
                tokens.append(row)

        sums: dict[str, np.ndarray] = {}
        more: dict[str, list[Any]] = {}
        if good:
            sums = metric_sums_by_row(Tokens.join(tokens), np.array([len(row.rank) for row in tokens]), self.wanted.r_max)
            sums["n_prompt_tokens"] = np.array([spans[n][0] for n in good], np.int64)
            if self.wanted.per_turn:
                owners = _arrays(some["span_turns"])
                more["turns"] = [sum_by_turn(row, *turn_lengths(spans[n], owners[n]), self.wanted.r_max) for n, row in zip(good, tokens, strict=True)]
            if self.wanted.step_window is not None:
                steps = _arrays(some["steps"])
                sums["n_steps"] = np.array([len(steps[n]) // 2 for n in good], np.int64)
                sums["step_surprisal_sum"] = self.score_steps([(ids[n], spans[n], steps[n]) for n in good])
        scores = score_table(rows, scorable[good], sums, more, reason, detail, self.fingerprint)
        kept = None
        if self.wanted.token_scores:
            kept = token_table(some.take(pa.array(good, pa.int64())), tokens)
        return scores, kept

    def score_steps(self, rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
        """For (ids, spans, steps) of each row the sum over its steps of their mean surprisal in the short context, float64 [R].

        NaN where a context did not fit into memory, or not into the window.
        """
        assert self.wanted.step_window is not None
        sums = np.zeros(len(rows))
        contexts: list[Window] = []
        owners: list[int] = []

        def flush() -> None:
            tokens = score_tokens(self.student, [c.ids for c in contexts], [c.spans for c in contexts], self.work)
            for owner, found in zip(owners, tokens, strict=True):
                sums[owner] += np.nan if found is None else found.surprisal.mean(dtype=np.float64)
            contexts.clear()
            owners.clear()

        held = 0
        for n, (ids, spans, steps) in enumerate(rows):
            for context in step_contexts(ids, spans, steps, self.wanted.step_window, self.wanted.window):
                if context is None:
                    sums[n] = np.nan
                    continue
                contexts.append(context)
                owners.append(n)
                held += len(context.ids)
            if held > CONTEXT_TOKENS:
                flush()
                held = 0
        flush()
        return sums


def score_table(
    rows: pa.RecordBatch,
    at: np.ndarray,
    sums: dict[str, np.ndarray],
    more: dict[str, list[Any]],
    reason: list[str | None],
    detail: list[str | None],
    fingerprint: str,
) -> pa.RecordBatch:
    """SCORES rows: what `rows` say of themselves, and for those `at`, int [G], their sums [G] and the ratios of them; null for the others."""

    def column(values: np.ndarray) -> pa.Array:
        whole = np.zeros(rows.num_rows, values.dtype)
        missing = np.ones(rows.num_rows, bool)
        whole[at], missing[at] = values, False
        return pa.array(whole, mask=missing)

    columns: dict[str, pa.Array] = {name: rows[name] for name in rows.schema.names if name in SCORES.names}
    columns |= {name: column(values) for name, values in sums.items()}
    ratios = {
        "mean_rank": ("rank_sum", "n_tokens", 1),
        "mean_surprisal": ("surprisal_sum", "n_tokens", 1),
        "mean_entropy": ("entropy_sum", "n_tokens", 1),
        "rsr": ("rank_sum", "surprisal_sum", 1),
        "local_naturalness": ("step_surprisal_sum", "n_steps", -1),
    }
    columns |= {name: column(sign * sums[a] / sums[b]) for name, (a, b, sign) in ratios.items() if a in sums and b in sums}
    for name, values in more.items():
        whole: list[Any] = [None] * rows.num_rows
        for i, value in zip(at, values, strict=True):
            whole[i] = value
        columns[name] = pa.array(whole, SCORES.field(name).type)
    columns["truncated"] = pc.if_else(pa.array([r is None for r in reason]), rows["truncated"], None)
    columns["reject_reason"] = pa.array(reason, pa.string())
    columns["reject_detail"] = pa.array(detail, pa.string())
    columns["fingerprint"] = pa.repeat(fingerprint, rows.num_rows)
    nothing = {field.name: pa.nulls(rows.num_rows, field.type) for field in SCORES if field.name not in columns}
    return pa.RecordBatch.from_arrays([(columns | nothing)[name] for name in SCORES.names], schema=SCORES)


def token_table(rows: pa.RecordBatch, tokens: list[Tokens]) -> pa.Table:
    """TOKENS of scored rows."""
    lists = {name: pa.array([getattr(row, name) for row in tokens], TOKENS.field(name).type) for name in Tokens._fields}
    columns = {"text": rows["token_text"], **lists}
    return pa.table([columns[name] if name in columns else rows[name] for name in TOKENS.names], schema=TOKENS)


def sum_by_turn(tokens: Tokens, turns: np.ndarray, lengths: np.ndarray, r_max: int) -> list[dict[str, Any]]:
    """The sums of each of a row's turns, int [U], in order; `lengths` int64 [U] says how many of its tokens each has."""
    sums = {name: values.tolist() for name, values in sum_by_row(tokens, lengths, r_max).items()}
    return [{"turn": int(turn)} | {name: values[n] for name, values in sums.items()} for n, turn in enumerate(turns)]


def turn_lengths(spans: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The turns that a row's spans belong to, `owners` int [S], and how many of its scored tokens each has."""
    turns, place = np.unique(owners, return_inverse=True)
    return turns, np.bincount(place, np.diff(spans.reshape(-1, 2))[:, 0]).astype(np.int64)


class Window(NamedTuple):
    """Ids that go through the student by themselves, and what is scored of them."""

    ids: np.ndarray
    spans: np.ndarray


def cut_windows(ids: np.ndarray, spans: np.ndarray, window: int | None) -> list[Window]:
    """A row as windows that overlap by half, each scored token in the first that gives it half a window of context.

    The first window scores all its tokens, every later one those behind its middle. Windows without scored tokens are left out.
    """
    if window is None or len(ids) <= window:
        return [Window(ids, spans)]
    half, out = window // 2, []
    for start in range(0, len(ids) - half, window - half):
        first, stop = (start + half if start else 0), start + window
        inside = np.clip(spans.reshape(-1, 2), first, stop) - start
        inside = inside[inside[:, 0] < inside[:, 1]]
        if len(inside):
            out.append(Window(ids[start : start + int(inside[-1, 1])], inside.astype(np.int32).reshape(-1)))
    return out


def step_contexts(ids: np.ndarray, spans: np.ndarray, steps: np.ndarray, step_window: float, limit: int | None) -> Iterator[Window | None]:
    """Each step of a row behind all that is not scored before it (the prompt, headers, tool output) and the last steps only.

    `step_window` is the number of steps, or, under 1, their share of those before it, rounded up. A context longer than
    `limit` loses what comes first behind the prompt; None where the prompt and the step alone are longer.
    """
    scored = np.zeros(len(ids), bool)
    for start, stop in spans.reshape(-1, 2):
        scored[start:stop] = True
    pairs = steps.reshape(-1, 2)
    for n, (start, stop) in enumerate(pairs):
        back = math.ceil(step_window * n) if step_window < 1 else int(step_window)
        keep = ~scored[:stop]
        keep[pairs[max(0, n - back)][0] :] = True
        context = ids[:stop][keep]
        if limit and len(context) > limit:
            n_last = limit - int(spans[0])
            if n_last < stop - start:
                yield None
                continue
            context = np.concatenate([context[: spans[0]], context[len(context) - n_last :]])
        yield Window(context, np.array([max(1, len(context) - (stop - start)), len(context)], np.int32))


def score_windows(student: Student, ids: list[np.ndarray], spans: list[np.ndarray], work: "Work", window: int | None) -> list[Tokens | None]:
    """`score_tokens`, with rows longer than the window scored in several."""
    windows = [cut_windows(row, span, window) for row, span in zip(ids, spans, strict=True)]
    flat = list(itertools.chain.from_iterable(windows))
    tokens = iter(score_tokens(student, [w.ids for w in flat], [w.spans for w in flat], work))
    found = [list(itertools.islice(tokens, len(row))) for row in windows]
    return [None if any(part is None for part in parts) else Tokens.join([part for part in parts if part]) for parts in found]


@dataclass
class Work:
    """The batch budget of a replica, which shrinks where memory runs out, and what its batches held."""

    batch_tokens: int
    splits: int = 0
    padded: int = 0  # positions, padding included
    positions: int = 0  # without it


def score_rows(student: Student, ids: list[np.ndarray], spans: list[np.ndarray], work: Work, r_max: int) -> dict[str, np.ndarray]:
    """Sums of each row, in the order given, as `sum_by_row` defines them; 0 tokens, and sums that are no number, where a row does not fit."""
    found = score_tokens(student, ids, spans, work)
    fit = [i for i, row in enumerate(found) if row is not None]
    sums = {name: np.zeros(len(ids), np.int64) for name in ("n_tokens", "rank_sum")}
    sums |= {name: np.full(len(ids), np.nan) for name in ("surprisal_sum", "entropy_sum")}
    if fit:
        tokens = [row for row in found if row is not None]
        for name, values in sum_by_row(Tokens.join(tokens), np.array([len(row.rank) for row in tokens]), r_max).items():
            sums[name][fit] = values
    return sums


def score_tokens(student: Student, ids: list[np.ndarray], spans: list[np.ndarray], work: Work) -> list[Tokens | None]:
    """The scored tokens of each row, in the order given.

    `ids` int32 [T] and `spans` int32 [2S] a row, as `encode` gives them: every span starts at 1 or later. A batch that does
    not fit into memory is split, and batches are smaller from then on; a row that does not fit alone gives None.
    """
    import torch

    lengths = np.array([len(row) - 1 for row in ids], np.int64)
    found: list[Tokens | None] = [None] * len(ids)
    left = batches(lengths, work.batch_tokens, packed=student.packed)
    while left:
        batch = left.pop(0)
        size = int(lengths[batch].sum()) if student.packed else len(batch) * int(lengths[batch].max())
        try:
            tokens = _score_batch(student, [ids[i] for i in batch], [spans[i] for i in batch])
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
        for i, row in zip(batch, tokens, strict=True):
            found[i] = row
    return found


def _score_batch(student: Student, ids: list[np.ndarray], spans: list[np.ndarray]) -> list[Tokens]:
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
        whole = Tokens(*(values.cpu().numpy() for values in stats))
    borders = np.cumsum([len(p) for p in scored[:-1]])
    return [Tokens(*columns) for columns in zip(*(np.split(values, borders) for values in whole), strict=True)]


def _arrays(lists: pa.ListArray) -> list[np.ndarray]:
    """The elements of a list array without nulls, without copying."""
    values, offsets = lists.values.to_numpy(), lists.offsets.to_numpy()
    return [values[a:b] for a, b in itertools.pairwise(offsets)]
