"""score: encoded rows -> sums. One replica of the student an actor; a batch of Ray Data is one work unit.

Legend: B rows of a batch, T positions, N scored positions, D hidden size.
"""

import itertools
import time

import numpy as np
import pyarrow as pa

from rsr_ray.batching import batches
from rsr_ray.lm_head import sweep
from rsr_ray.schema import SCORES
from rsr_ray.student import Student
from rsr_ray.sums import sum_by_row


class Score:
    """Ray Data actor UDF over units: ENCODED_ROWS in, SCORES rows out, one row for one row, and what it cost."""

    def __init__(self, folder: str, dtype: str, r_max: int, batch_tokens: int, fingerprint: str, trust_remote_code: bool):
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu":
            torch.set_num_threads(1)  # one thread a replica, so that the number of replicas changes no rounding
        self.student = Student(folder, dtype, device, trust_remote_code=trust_remote_code)
        self.r_max, self.batch_tokens, self.fingerprint = r_max, batch_tokens, fingerprint

    def __call__(self, unit: pa.Table) -> pa.Table:
        begun = time.perf_counter()
        rows = pa.RecordBatch.from_struct_array(unit["rows"].combine_chunks().flatten())
        scored = pa.ListArray.from_arrays([0, rows.num_rows], self.score(rows).to_struct_array())
        unit = unit.set_column(unit.schema.get_field_index("rows"), "rows", scored)
        return unit.append_column("seconds", pa.array([time.perf_counter() - begun]))

    def score(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """SCORES rows for ENCODED_ROWS rows, in their order."""
        scorable = rows["reject_reason"].is_null()
        ids = _arrays(rows["input_ids"].filter(scorable))
        spans = _arrays(rows["spans"].filter(scorable))
        sums = score_rows(self.student, ids, spans, self.batch_tokens, self.r_max)
        finite = np.isfinite(sums["surprisal_sum"]) & np.isfinite(sums["entropy_sum"]) & (sums["surprisal_sum"] > 0)

        at = np.flatnonzero(scorable.to_numpy(zero_copy_only=False))
        failed = at[~finite]
        at = at[finite]
        reason, detail = rows["reject_reason"].to_pylist(), rows["reject_detail"].to_pylist()
        for i, total in zip(failed, sums["surprisal_sum"][~finite], strict=True):
            reason[i], detail[i] = "non_finite_score", f"the surprisals add up to {total}"

        def column(values: np.ndarray) -> pa.Array:
            """Values of the scored rows, null for the others."""
            whole = np.zeros(rows.num_rows, values.dtype)
            missing = np.ones(rows.num_rows, bool)
            whole[at], missing[at] = values, False
            return pa.array(whole, mask=missing)

        good = {name: values[finite] for name, values in sums.items()}
        columns = {
            **{name: rows[name] for name in rows.schema.names if name in SCORES.names},
            "n_prompt_tokens": column(np.array([s[0] for s in spans], np.int64)[finite]),
            **{name: column(values) for name, values in good.items()},
            "mean_rank": column(good["rank_sum"] / good["n_tokens"]),
            "mean_surprisal": column(good["surprisal_sum"] / good["n_tokens"]),
            "mean_entropy": column(good["entropy_sum"] / good["n_tokens"]),
            "rsr": column(good["rank_sum"] / good["surprisal_sum"]),
            "truncated": pa.repeat(False, rows.num_rows),
            "reject_reason": pa.array(reason, pa.string()),
            "reject_detail": pa.array(detail, pa.string()),
            "fingerprint": pa.repeat(self.fingerprint, rows.num_rows),
        }
        return pa.RecordBatch.from_arrays([columns[name] for name in SCORES.names], schema=SCORES)


def score_rows(student: Student, ids: list[np.ndarray], spans: list[np.ndarray], batch_tokens: int, r_max: int) -> dict[str, np.ndarray]:
    """Sums of each row, in the order given, as `sum_by_row` defines them.

    `ids` int32 [T] and `spans` int32 [2S] a row, as `encode` gives them: every span starts at 1 or later.
    """
    parts, order = [], []
    for batch in batches(np.array([len(row) - 1 for row in ids], np.int64), batch_tokens):
        parts.append(_score_batch(student, [ids[i] for i in batch], [spans[i] for i in batch], r_max))
        order.append(batch)
    if not parts:
        none = np.empty(0)
        return sum_by_row(none, none, none, np.empty(0, np.int64), r_max)
    back = np.argsort(np.concatenate(order))
    return {name: np.concatenate([p[name] for p in parts])[back] for name in parts[0]}


def _score_batch(student: Student, ids: list[np.ndarray], spans: list[np.ndarray], r_max: int) -> dict[str, np.ndarray]:
    import torch

    width = max(len(row) for row in ids) - 1  # the last token is only ever a target
    padded_BT = np.zeros((len(ids), width), np.int64)
    scored = [np.concatenate([np.arange(a, b) for a, b in s.reshape(-1, 2)]) for s in spans]
    for b, row in enumerate(ids):
        padded_BT[b, : len(row) - 1] = row[:-1]
    # hidden state i predicts token i + 1
    source_N = torch.from_numpy(np.concatenate([b * width + p - 1 for b, p in enumerate(scored)])).to(student.device)
    target_N = torch.from_numpy(np.concatenate([row[p] for row, p in zip(ids, scored, strict=True)]).astype(np.int64)).to(student.device)
    with torch.inference_mode():
        hidden_BTD = student.hidden(torch.from_numpy(padded_BT).to(student.device))
        hidden_ND = hidden_BTD.flatten(0, 1)[source_N]
        stats = sweep(hidden_ND, target_N, student.logits, student.vocab_size)
        rank, surprisal, entropy = (values.cpu().numpy() for values in stats)
    return sum_by_row(rank, surprisal, entropy, np.array([len(p) for p in scored], np.int64), r_max)


def _arrays(lists: pa.ListArray) -> list[np.ndarray]:
    """The elements of a list array without nulls, without copying."""
    values, offsets = lists.values.to_numpy(), lists.offsets.to_numpy()
    return [values[a:b] for a, b in itertools.pairwise(offsets)]
