"""scored: the score rows of a store -> the trajectories of a student, and a metric's terms by
prompt and teacher.

Teachers are compared by prompt, on the same prompts. Legend: N trajectories, P prompts, T teachers.
"""

import dataclasses
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.decide.buckets import Buckets, values_of
from rsr_ray.decide.matrices import Matrices
from rsr_ray.decide.whole import Asked, Told, Whole, sum_up
from rsr_ray.errors import UserError
from rsr_ray.guard import JUDGED_BY, as_numbers
from rsr_ray.metrics import REGISTRY, RSR, Metric
from rsr_ray.store.store import Store
from rsr_ray.store.teacher_rows import TeacherRow
from rsr_ray.store.units import settle_units

MOST_ROWS = 1_000_000  # of more, those of a sample of prompts are kept, and sums over all
ROW = ["trajectory_id", "content", "sample", "source", "source_row"]
READERS = 8  # units read at once


@dataclass(frozen=True)
class Scored:
    """The scored trajectories of a student, each once, sorted by teacher and id.

    Of more than MOST_ROWS these are all answers to some prompts, which their hashes name; what all
    come to, `told` says.
    """

    teachers: list[str]  # [T], sorted
    prompts: pa.Array  # string [P], sorted; int64 of a sample
    teacher: np.ndarray  # int [N]: index into teachers
    prompt: np.ndarray  # int [N]: index into prompts
    columns: dict[str, np.ndarray]  # each [N]; NaN where the store has null
    rows: pa.Table  # [N]: trajectory_id, sample, source, source_row, and the unit that holds it
    notes: tuple[str, ...] = ()  # what the store lacks of what was scored, a sentence each
    stratum: pa.Array | None = None  # string [N] if asked for; null where a row has no value
    told: Told | None = None
    whole: Whole | None = None  # what else is known of all rows

    @property
    def n_trajectories(self) -> int:
        return int(self.told.values.n.sum()) if self.told else len(self.teacher)

    @property
    def n_prompts(self) -> int:
        return self.told.n_prompts if self.told else len(self.prompts)

    def has(self, metric: Metric) -> bool:
        """Whether all rows have what the metric is made of."""
        if self.whole:
            return metric.name not in self.whole.lacking
        return not any(np.isnan(self.columns[name]).any() for name in metric.columns)

    def _check_has(self, metric: Metric) -> None:
        """Raise UserError where not all rows have what a metric is made of."""
        if not self.has(metric):
            how = "" if metric.segment else " (--new-generation)"
            raise UserError(
                f"{metric.name}: not all rows of the store have {', '.join(metric.columns)}; "
                f"score them {metric.way_out}{how}"
            )

    def valued(self, metric: Metric) -> "Scored":
        """The trajectories that have a value of a metric, and a note on the others.

        One without tokens of the metric's segment has none, say. Raises UserError where no
        trajectory has one, or not all rows have what the metric is made of.
        """
        self._check_has(metric)
        if self.told and metric.name == self.told.by:
            return self
        with np.errstate(divide="ignore", invalid="ignore"):
            has_value = np.isfinite(metric.values(self.columns, self.prompt))
        if has_value.all():
            return self
        if not has_value.any():
            raise UserError(
                f"--by {metric.name}: no trajectory has a value; segments are reasoning, answer, "
                "tool_calls, and those that were named when the store was scored"
                if metric.segment
                else f"--by {metric.name}: no trajectory has a value"
            )
        left = self.where(has_value)
        note = f"{(~has_value).sum():,} trajectories have no {metric.name} and are left out"
        if gone := sorted({*self.teachers} - {*left.teachers}):
            note += f", and so are the teachers {', '.join(gone)}"
        return dataclasses.replace(left, notes=(*left.notes, note))

    def matrices(self, metric: Metric) -> Matrices:
        """The metric's terms by prompt and teacher, of the trajectories that have a value.

        Raises UserError where not all rows have what it is made of.
        """
        self._check_has(metric)
        if self.told:
            return self.told.matrices[metric.name]
        shape = len(self.prompts), len(self.teachers)
        cell = self.prompt * len(self.teachers) + self.teacher  # [N], of the flat [P, T]
        with np.errstate(divide="ignore", invalid="ignore"):
            x, y = metric.terms(self.columns, self.prompt)
        there = np.isfinite(x) & np.isfinite(y)

        def summed(values: np.ndarray | None) -> np.ndarray:
            weights = None if values is None else values[there]
            return np.bincount(cell[there], weights, shape[0] * shape[1]).reshape(shape)

        return Matrices(summed(x), summed(y), n=summed(None))

    def flag_counts(self) -> FlagCounts:
        """How many trajectories of each teacher are cut off, and how many degenerate."""
        if self.told:
            return self.told.flags
        flags = Flags.of(self.columns)
        return FlagCounts.of(flags.cut_off, flags.degenerate, self.teacher, len(self.teachers))

    def values_of(self, metric: Metric) -> Values:
        """The mean and spread of a metric over the trajectories of each teacher."""
        if self.told:
            return self.told.values
        values = metric.values(self.columns, self.prompt)
        return Values.of(values, self.columns[metric.n_tokens], self.teacher, len(self.teachers))

    def others(self, flagged: np.ndarray, left_out: list[str]) -> "Scored | None":
        """The trajectories that are not degenerate, as `flagged` bool [N] says, but for those of
        some teachers; None for none.
        """
        kept = [name for name in self.teachers if name not in left_out]
        if self.told:
            return self._as_told(self.told.without, ~flagged) if self.told.without else None
        # One that has few left would take from all the prompts that they share.
        return self.where(~flagged).only(kept) if kept and flagged.any() else None

    def in_strata(self) -> dict[str, "Scored"]:
        """The trajectories of each stratum, by name, sorted, without notes."""
        assert self.stratum is not None
        whole = dataclasses.replace(self, notes=())  # what the store lacks is said once
        if self.whole:
            of_strata = self.whole.strata
            return {n: whole._as_told(told, _is(self.stratum, n)) for n, told in of_strata.items()}
        names = sorted(self.stratum.unique().drop_null().to_pylist())
        return {name: whole.where(_is(self.stratum, name)) for name in names}

    def _as_told(self, told: Told, keep: np.ndarray) -> "Scored":
        """The trajectories of a mask, bool [N], and of the teachers that `told` is of."""
        place = {name: t for t, name in enumerate(told.teachers)}
        teacher = np.array([place.get(name, -1) for name in self.teachers])[self.teacher]
        some = self.where(keep & (teacher >= 0))
        own = teacher[keep & (teacher >= 0)]
        return dataclasses.replace(
            some, teachers=told.teachers, teacher=own, told=told, whole=self.whole
        )

    def only(self, teachers: Iterable[str]) -> "Scored":
        """The trajectories of some teachers. Raises UserError for one that is not there."""
        wanted = sorted({*teachers})
        if unknown := [name for name in wanted if name not in self.teachers]:
            raise UserError(
                f"--teachers {' '.join(unknown)}: not in the store; teachers: "
                f"{', '.join(self.teachers)}"
            )
        return self.where(np.isin(self.teacher, [self.teachers.index(name) for name in wanted]))

    def where(self, keep: np.ndarray) -> "Scored":
        """The trajectories of a mask, bool [N], with the teachers and prompts that they have."""
        prompts, prompt = np.unique(self.prompt[keep], return_inverse=True)
        teachers, teacher = np.unique(self.teacher[keep], return_inverse=True)
        return Scored(
            [self.teachers[t] for t in teachers],
            self.prompts.take(pa.array(prompts)),
            teacher,
            prompt,
            {name: values[keep] for name, values in self.columns.items()},
            self.rows.filter(pa.array(keep)),
            self.notes,
            None if self.stratum is None else self.stratum.filter(pa.array(keep)),
        )


def load_scored(
    store: Store,
    metrics: Iterable[Metric] = REGISTRY.values(),
    more: Iterable[str] = (),
    stratum: str | None = None,
    teachers: Iterable[str] = (),
) -> Scored:
    """The score rows that the store's teachers table was made of; `teachers` are the only ones, if
    any are given.

    They have the guard's columns; `more` names further number columns of SCORES, `stratum` a column
    that --stratum kept. A trajectory_id and content that a teacher has twice count once, the first
    by source and row. Of more than MOST_ROWS rows there are sums of all and a sample: they are for
    a ranking by the first of the metrics. If the store's rows are no longer those of the table,
    `notes` say so. Raises UserError if there are none, or --stratum did not keep `stratum`, or a
    teacher is not there, and StoreError for a broken file.
    """
    fingerprint = store.generation()
    files = store.score_files(fingerprint)
    metrics, more = list(metrics), [*more, *JUDGED_BY]
    scored = load_files(store, fingerprint, files, [*metrics, RSR], more, stratum, teachers)
    said = store.notes(fingerprint)
    if store.made_of().units and not gives(scored, store.read_teacher_rows()):
        said.append(
            f"{store.teachers_uri} does not match the scores in the store: the next run of "
            "rsr-ray score recreates it"
        )
    scored = scored if scored.told else scored.only(teachers or scored.teachers)
    return dataclasses.replace(scored, notes=(*said, *scored.notes))


def gives(scored: Scored, table: list[TeacherRow]) -> bool:
    """Whether rows give these TEACHERS rows: the same teachers, trajectories and rsr."""
    made_of = {t.teacher: t for t in table if t.n_trajectories}
    if scored.whole:
        return _are(scored.whole.every, made_of)
    every = scored.matrices(RSR)
    totals = zip(every.n.sum(0).tolist(), every.values().tolist(), strict=True)
    return _are(dict(zip(scored.teachers, totals, strict=True)), made_of)


def _are(every: dict[str, tuple[int, float]], made_of: dict[str, TeacherRow]) -> bool:
    """Whether teachers with so many trajectories and such an rsr are those of a table."""
    if [*every] != sorted(made_of):
        return False
    if any(n != made_of[name].n_trajectories for name, (n, _) in every.items()):
        return False
    values = np.array([made_of[name].rsr for name in every], np.float64)
    return np.allclose([rsr for _, rsr in every.values()], values, rtol=1e-9, atol=0)


def load_units(
    store: Store, fingerprint: str, names: list[str], metrics: Iterable[Metric]
) -> Scored:
    """The score rows of these units, as `load_files` has them."""
    return load_files(store, fingerprint, store.score_files(fingerprint, names), list(metrics))


def load_files(
    store: Store,
    fingerprint: str,
    files: list[ScoreFile],
    metrics: list[Metric],
    more: Iterable[str] = (),
    stratum: str | None = None,
    teachers: Iterable[str] = (),
) -> Scored:
    """The score rows of these files, as `load_scored` has them; `teachers` count for sums only.

    Raises UserError where there are none, or they were scored without --stratum `stratum`.
    """
    if not files:
        raise UserError(
            f"store {store.uri}: no scores of student {store.student_name}: run rsr-ray score"
        )
    of_metrics = (column for metric in metrics for column in metric.columns)
    numbers = list(dict.fromkeys(["n_tokens", "surprisal_sum", *of_metrics, *more]))
    n_rows = sum(file.n_rows for file in files)
    if n_rows > MOST_ROWS:
        numbers = list(dict.fromkeys([*numbers, *RSR.columns]))
        asked = Asked(metrics, tuple(teachers), sample_share=MOST_ROWS / n_rows)
        with Buckets(store, fingerprint, numbers, stratum=stratum) as buckets:
            buckets.fill(files)
            if buckets.names["teacher"]:
                return _sampled(sum_up(buckets, asked))
        raise _all_rejected(store)

    def read(file: ScoreFile) -> pa.Table:
        return _read_rows(store, fingerprint, file, numbers, stratum)

    with ThreadPoolExecutor(READERS) as pool:
        tables = list(pool.map(read, files))
    if not sum(table.num_rows for table in tables):
        raise _all_rejected(store)
    return _each_once(pa.concat_tables(tables).unify_dictionaries().combine_chunks(), numbers)


def _all_rejected(store: Store) -> UserError:
    return UserError(
        f"store {store.uri}: no row of student {store.student_name} was scored: every row was "
        "rejected; rsr-ray rejects lists them"
    )


def _sampled(whole: Whole) -> Scored:
    """The sample of very many rows, and what all of them come to."""
    sample, told = whole.sample, whole.told
    teacher = np.array(whole.names["teacher"])[sample.rows["teacher"]]
    place = {name: t for t, name in enumerate(told.teachers)}
    columns = {n: sample.rows[n].copy() for n in sample.rows.dtype.names if n in whole.numbers}
    named = {n: _named(sample.rows[n], whole.names[n]) for n in ("source", "unit")}
    notes = [whole.note] if ...
def _each_once(rows: pa.Table, numbers: list[str]) -> Scored:
    """Rows with trajectories that a teacher has twice, each trajectory once: its first row by
    source and row.
    """
    teacher, teachers = _codes(rows["teacher"])
    trajectory, _ = _codes(rows["trajectory_id"])
    content, _ = _codes(pc.fill_null(rows["content"], ""))
    source, _ = _codes(rows["source"])
    order = np.lexsort((rows["source_row"].to_numpy(), source, content, trajectory, teacher))
    first = np.ones(len(order), bool)
    first[1:] = np.logical_or.reduce(
        [np.diff(code[order]) != 0 for code in (teacher, trajectory, content)]
    )
    order = order[first]
    prompt, prompts = _codes(rows["prompt_id"].take(pa.array(order)))
    return Scored(
        teachers.to_pylist(),
        prompts,
        teacher[order],
        prompt,
        {name: as_numbers(rows[name])[order] for name in numbers},
        rows.select([*ROW, "unit"]).take(pa.array(order)),
        stratum=_text(rows["stratum"].take(pa.array(order)))
        if "stratum" in rows.column_names
        else None,
    )


def _text(column: pa.ChunkedArray) -> pa.Array:
    whole = pc.cast(column, pa.string()).combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """A column as int64 [N] indices into its sorted distinct values, and these."""
    is_encoded = pa.types.is_dictionary(column.type)
    encoded = (column if is_encoded else pc.dictionary_encode(column)).combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0)
    order = pc.sort_indices(encoded.dictionary)
    place = np.empty(len(order), np.int64)
    place[order.to_numpy()] = np.arange(len(order))
    return place[encoded.indices.to_numpy()], encoded.dictionary.take(order)
