"""rescore: kept token scores -> every one-pass metric again, without the student: under another
r_max, or to check the store.
"""

import hashlib
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.corpus.row_faults import Row
from rsr_ray.engine.sums import metric_sums_by_row, sum_by_turn
from rsr_ray.errors import UserError
from rsr_ray.guard import GUARD_COLUMNS
from rsr_ray.run.cluster import Cluster
from rsr_ray.run.display import each
from rsr_ray.run.pipeline import make_teachers
from rsr_ray.run.resources import TASK_CPUS
from rsr_ray.run.score_table import Rejects, RowSums, score_table, whole_tokens
from rsr_ray.schema import OF_ROW, SCORES, SINCE_VERSION_3, TOKENS
from rsr_ray.store.beside import Beside
from rsr_ray.store.lease import at_work
from rsr_ray.store.records import warn_once
from rsr_ray.store.store import Store
from rsr_ray.store.teacher_rows import TeacherRow, teacher_rows
from rsr_ray.store.units import n_rows

ROUNDING = 1e-12  # relative; scores and token scores of one run give the same
CARRIED = [*OF_ROW, *GUARD_COLUMNS, "truncated"]
KEPT = (  # what token scores do not tell
    "n_prompt_tokens",
    "n_steps",
    "step_surprisal_sum",
    "n_within_sentences",
    "surprisal_within_sentences_sum",
)


@dataclass(frozen=True, kw_only=True)
class Rescored:
    """Scores that were computed again, and how far from the store's they are."""

    n_rows: int
    fingerprint: str  # of the new scores
    r_max: int
    difference: float  # the largest, relative
    column: str  # that has it
    unit: str  # in which
    # whether all differences are as the run measured that added token scores to the scores later
    is_expected: bool
    teachers: list[TeacherRow] | None  # None where nothing was written

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def rescore(
    store: Store, r_max: int | None, out: Store | None, ray_address: str | None
) -> Rescored:
    """Compute all scores of a store again from its token scores, and write them to `out`, or
    compare them with the store's.

    Raises UserError where the store holds no token scores.
    """
    fingerprint = store.generation()
    names = store.units().get(fingerprint, [])
    some = [name for name in names if n_rows([name])]
    if not some:
        raise UserError(
            f"store {store.uri}: no scores of student {store.student_name}: run rsr-ray score"
        )
    if without := {*some} - store.token_units(fingerprint):
        raise UserError(
            f"store {store.uri}: {n_rows(without):,} of {n_rows(names):,} trajectories of student "
            f"{store.student_name} have no token scores; run rsr-ray score with --token-scores, "
            "which adds them and changes no score"
        )
    was = store.read_tokens(fingerprint, some[0])[1].r_max
    new = fingerprint if r_max in (None, was) else derived_fingerprint(fingerprint, r_max)
    for note in store.notes(fingerprint):
        warn_once(note)
    with Cluster(ray_address) as cluster:
        told, teachers = _rescore(store, fingerprint, names, r_max or was, out, new, cluster)
    unexpected = [unit for unit in told if unit["difference"] > unit["expected"]]
    worst = max(unexpected or told, key=lambda unit: unit["difference"])
    return Rescored(
        n_rows=sum(unit["n_rows"] for unit in told),
        fingerprint=new,
        r_max=r_max or was,
        difference=worst["difference"],
        column=worst["column"],
        unit=worst["name"],
        is_expected=not unexpected,
        teachers=None if teachers is None else teacher_rows(teachers),
    )


def _rescore(
    store: Store,
    fingerprint: str,
    names: list[str],
    r_max: int,
    out: Store | None,
    new: str,
    cluster: Cluster,
) -> tuple[list[Row], pa.Table | None]:
    import ray.data

    cluster.connect()
    tasks = ray.data.from_arrow([pa.table({"name": [name]}) for name in names]).map_batches(
        rescore_unit,
        fn_args=(store, fingerprint, r_max, out, new),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=TASK_CPUS,
    )
    told = each(tasks.iter_rows(), len(names), f"rescoring {n_rows(names):,} rows")
    if out is None:
        return list(told), None
    with at_work(out, new):
        return list(told), make_teachers(out, new, cluster)


def derived_fingerprint(fingerprint: str, r_max: int) -> str:
    """The fingerprint of scores of `fingerprint` taken again under another r_max."""
    return hashlib.sha256(f"{fingerprint} r_max={r_max}".encode()).hexdigest()[:16]


def rescore_unit(
    unit: pa.Table, store: Store, fingerprint: str, r_max: int, out: Store | None, new: str
) -> pa.Table:
    """Ray Data UDF over names of units: their scores again, written to `out` where there is one,
    and how far from the store's they are.
    """
    (name,) = unit["name"].to_pylist()
    scores = store.read_unit(fingerprint, name).combine_chunks()
    tokens, off = TOKENS.empty_table(), 0.0
    if len(scores):  # else it only says where its shard ends
        tokens, (_, off) = store.read_tokens(fingerprint, name)
    again = scores_of_tokens(scores, tokens, r_max, new)
    if out is not None:
        out.write_scores(new, name, again, _mark_of(again, store.read_mark(fingerprint, name)))
    worst, column = largest_difference(scores, again)
    told = {"name": name, "n_rows": scores.num_rows, "difference": worst, "column": column}
    told["expected"] = ROUNDING + 2 * off  # of a ratio: of both of its sums
    return pa.table({key: [value] for key, value in told.items()})


def _mark_of(again: pa.Table, mark: str | None) -> str | None:
    """What a unit has that was scored again, by what it had."""
    if mark is None:
        return None
    had = Beside.of_mark(mark)
    lost = len(again) and again["segments"].null_count == len(again)
    return replace(had, segments=None if lost else had.segments).mark


def largest_difference(scores: pa.Table, again: pa.Table) -> tuple[float, str]:
    """The largest relative difference of a number, and its column; inf where one of two is null."""
    worst, column = 0.0, ""
    for field in SCORES:
        if not (pa.types.is_floating(field.type) or pa.types.is_integer(field.type)):
            continue
        if field.name in SINCE_VERSION_3 and scores[field.name].null_count == scores.num_rows:
            continue  # an earlier version wrote the scores
        was, now = (
            pc.cast(table[field.name], pa.float64()).to_numpy() for table in (scores, again)
        )
        if (np.isnan(was) == np.isnan(now)).all():
            differs = np.abs(was - now) / np.maximum(np.abs(was), 1e-300)
        else:
            differs = np.array([np.inf])
        if len(was) and np.nanmax(differs, initial=0.0) > worst:
            worst, column = float(np.nanmax(differs)), field.name
    return worst, column


def scores_of_tokens(scores: pa.Table, tokens: pa.Table, r_max: int, fingerprint: str) -> pa.Table:
    """SCORES rows of a unit with all that follows from its TOKENS computed from them.

    These do not say which segment a token is in: under another r_max segments have no sums.
    """
    rows = (
        scores.to_batches()[0] if scores.num_rows else pa.RecordBatch.from_pylist([], scores.schema)
    )
    at = np.flatnonzero(rows["reject_reason"].is_null().to_numpy(zero_copy_only=False))
    scored = rows.take(pa.array(at))
    sums = _sums_of_tokens(at, scored, tokens, r_max)
    if pc.all(pc.equal(scored["fingerprint"], fingerprint)).as_py():
        sums.parts["segments"] = scored["segments"].to_pylist()
    again = score_table(rows.select(CARRIED), sums, Rejects.of(rows), fingerprint)
    return pa.Table.from_batches([again])


def _sums_of_tokens(
    at: np.ndarray, scores: pa.RecordBatch, tokens: pa.Table, r_max: int
) -> RowSums:
    """What follows from the TOKENS of scored rows, and what of their SCORES does not."""
    if not len(at):
        return RowSums(at, {})
    whole, lengths = whole_tokens(tokens)
    sums = metric_sums_by_row(whole, lengths, r_max)
    for name in KEPT:
        if scores[name].null_count == 0:
            sums[name] = scores[name].to_numpy(zero_copy_only=False)
    if scores["turns"].null_count:
        return RowSums(at, sums)
    turns = []
    for row, said in zip(whole.split(lengths), scores["turns"].to_pylist(), strict=True):
        n_tokens = np.array([turn["n_tokens"] for turn in said])
        turns.append(sum_by_turn(row, np.array([t["turn"] for t in said]), n_tokens, r_max))
    return RowSums(at, sums, {"turns": turns})
