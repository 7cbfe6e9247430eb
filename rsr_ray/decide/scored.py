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

from rsr_ray.errors import UserError
from rsr_ray.guard import JUDGED_BY, as_numbers
from rsr_ray.metrics import REGISTRY, RSR, Metric
from rsr_ray.store.store import Store
from rsr_ray.store.teacher_rows import TeacherRow
from rsr_ray.store.units import settle_units

ROW = ["trajectory_id", "content", "sample", "source", "source_row"]
READERS = 8  # units read at once


@dataclass(frozen=True)
class Scored:
    """The scored trajectories of a student, each once, sorted by teacher and id."""

    teachers: list[str]  # [T], sorted
    prompts: pa.Array  # string [P], sorted
    teacher: np.ndarray  # int [N]: index into teachers
    prompt: np.ndarray  # int [N]: index into prompts
    columns: dict[str, np.ndarray]  # each [N]; NaN where the store has null
    rows: pa.Table  # [N]: trajectory_id, sample, source, source_row, and the unit that holds it
    notes: tuple[str, ...] = ()  # what the store lacks of what was scored, a sentence each
    stratum: pa.Array | None = None  # string [N] if asked for; null where a row has no value

    def has(self, metric: Metric) -> bool:
        """Whether all rows have what the metric is made of."""
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

    def matrices(self, metric: Metric) -> "Matrices":
        """The metric's terms by prompt and teacher, of the trajectories that have a value.

        Raises UserError where not all rows have what it is made of.
        """
        self._check_has(metric)
        shape = len(self.prompts), len(self.teachers)
        cell = self.prompt * len(self.teachers) + self.teacher  # [N], of the flat [P, T]
        with np.errstate(divide="ignore", invalid="ignore"):
            x, y = metric.terms(self.columns, self.prompt)
        there = np.isfinite(x) & np.isfinite(y)

        def summed(values: np.ndarray | None) -> np.ndarray:
            weights = None if values is None else values[there]
            return np.bincount(cell[there], weights, shape[0] * shape[1]).reshape(shape)

        return Matrices(summed(x), summed(y), n=summed(None))

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


@dataclass(frozen=True)
class Matrices:
    """Sums of a metric's terms over the answers of a teacher to a prompt, float64 [P, T], and
    how many there are, [P, T].
    """

    x: np.ndarray
    y: np.ndarray
    n: np.ndarray

    def matched(self) -> "Matrices":
        """Only prompts that every teacher answered, and of several answers of a teacher their
        mean: every prompt weighs the same.
        """
        whole = (self.n > 0).all(1)
        n = self.n[whole]
        return Matrices(self.x[whole] / n, self.y[whole] / n, np.ones_like(n))

    def compared(self) -> tuple["Matrices", bool]:
        """What teachers are compared on: the prompts that all of them answered (True), or all,
        where there are none (False).
        """
        matched = self.matched()
        return (matched, True) if len(matched.x) else (self, False)

    def teachers(self, order: np.ndarray) -> "Matrices":
        """The columns of teachers, int [K], in this order."""
        return Matrices(self.x[:, order], self.y[:, order], self.n[:, order])

    def ratios(self) -> np.ndarray:
        """The metric of each teacher on each prompt, [P, T]; NaN where there is no answer."""
        return _ratio(self.x, self.y)

    def values(self) -> np.ndarray:
        """The metric of each teacher, [T]; NaN for one without an answer."""
        return _ratio(self.x.sum(0), self.y.sum(0))


def _ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    ratio = np.full(np.shape(x), np.nan)
    np.divide(x, y, out=ratio, where=y != 0)
    return ratio


def load_scored(
    store: Store,
    metrics: Iterable[Metric] = REGISTRY.values(),
    more: Iterable[str] = (),
    stratum: str | None = None,
) -> Scored:
    """The score rows that the store's teachers table was made of.

    They have the guard's columns; `more` names further number columns of SCORES, `stratum` a column
    that --stratum kept. A trajectory_id and content that a teacher has twice count once, the first
    by source and row. If the store's rows are no longer those of the table, `notes` say so. Raises
    UserError if there are none, or --stratum did not keep `stratum`, and StoreError for a broken
    file.
    """
    fingerprint = store.generation()
    units = store.units().get(fingerprint, [])
    more = [*more, *JUDGED_BY]
    scored = load_units(store, fingerprint, units, [*metrics, RSR], more, stratum)
    said = store.notes(fingerprint)
    if store.made_of().units and not gives(scored, store.read_teacher_rows()):
        said.append(
            f"{store.teachers_uri} does not match the scores in the store: the next run of "
            "rsr-ray score recreates it"
        )
    return dataclasses.replace(scored, notes=tuple(said))


def gives(scored: Scored, table: list[TeacherRow]) -> bool:
    """Whether rows give these TEACHERS rows: the same teachers, trajectories and rsr."""
    made_of = {t.teacher: t for t in table if t.n_trajectories}
    if scored.teachers != sorted(made_of):
        return False
    every = scored.matrices(RSR)
    if every.n.sum(0).tolist() != [made_of[name].n_trajectories for name in scored.teachers]:
        return False
    values = np.array([made_of[name].rsr for name in scored.teachers], np.float64)
    return np.allclose(every.values(), values, rtol=1e-9, atol=0)


def load_units(
    store: Store,
    fingerprint: str,
    names: list[str],
    metrics: Iterable[Metric],
    more: Iterable[str] = (),
    stratum: str | None = None,
) -> Scored:
    """The score rows of these units, as `load_scored` has them.

    Raises UserError where there are none, or they were scored without --stratum `stratum`.
    """
    if not names:
        raise UserError(
            f"store {store.uri}: no scores of student {store.student_name}: run rsr-ray score"
        )
    _, repeated = settle_units(names)
    of_metrics = (column for metric in metrics for column in metric.columns)
    numbers = list(dict.fromkeys(["n_tokens", "surprisal_sum", *of_metrics, *more]))

    def read(name: str) -> pa.Table:
        return _read_unit(store, fingerprint, name, numbers, stratum)

    with ThreadPoolExecutor(READERS) as pool:
        tables = list(pool.map(read, sorted(set(names) - set(repeated))))
    if not sum(table.num_rows for table in tables):
        raise UserError(
            f"store {store.uri}: no row of student {store.student_name} was scored: every row "
            "was rejected; rsr-ray rejects lists them"
        )
    return _each_once(pa.concat_tables(tables).unify_dictionaries().combine_chunks(), numbers)


def _read_unit(
    store: Store, fingerprint: str, name: str, numbers: list[str], stratum: str | None
) -> pa.Table:
    """The scored rows of a unit, without its rejects; names are dictionary-encoded."""
    columns = ["teacher", "prompt_id", "reject_reason", *ROW, *numbers]
    columns += ["strata"] if stratum else []
    table = store.read_unit(fingerprint, name, columns)
    table = table.filter(table["reject_reason"].is_null()).drop_columns(["reject_reason"])
    if stratum:
        strata = _values_of(table["strata"], stratum)
        table = table.drop_columns(["strata"]).append_column("stratum", strata)
    for column in ("teacher", "source", *(["stratum"] if stratum else [])):
        place = table.schema.get_field_index(column)
        table = table.set_column(place, column, table[column].dictionary_encode())
    return table.append_column("unit", pa.repeat(name, table.num_rows).dictionary_encode())


def _values_of(strata: pa.ChunkedArray, column: str) -> pa.ChunkedArray:
    """What rows say in a column of --stratum. Raises UserError where they were scored without."""
    kept = pc.map_lookup(strata, pa.scalar(column), "all")
    if len(kept) and kept.null_count == len(kept):
        others = sorted({name for row in strata.to_pylist() for name, _ in row or ()})
        there = f"without it, and with {', '.join(others)}" if others else "without --stratum"
        raise UserError(
            f"--by-stratum {column}: the store was scored {there}: score again with --stratum "
            f"{' '.join([column, *others])} --new-generation"
        )
    return pc.map_lookup(strata, pa.scalar(column), "first")


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
