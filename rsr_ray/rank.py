"""rank: score rows -> a ranking of teachers by any metric, and how sure it is.

All of it is paired by prompt: teachers are compared on the same prompts, and what is resampled is prompts. Legend: N
trajectories, P prompts, T teachers, B bootstrap draws.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.errors import UserError
from rsr_ray.metrics import REGISTRY, Metric
from rsr_ray.store import Store, settle_units


@dataclass(frozen=True)
class Scored:
    """The scored trajectories of a student, each once, sorted by teacher and id."""

    teachers: list[str]  # [T], sorted
    prompts: pa.Array  # string [P], sorted
    teacher: np.ndarray  # int [N]: index into teachers
    prompt: np.ndarray  # int [N]: index into prompts
    columns: dict[str, np.ndarray]  # each [N]; NaN where the store has null

    def matrices(self, metric: Metric) -> "Matrices":
        """The metric's terms by prompt and teacher. Raises UserError where the store does not have what it is made of."""
        missing = [name for name in metric.columns if np.isnan(self.columns[name]).any()]
        if missing:
            raise UserError(f"{metric.name}: not all rows of the store have {', '.join(missing)}; score them with --metrics {metric.name}")
        cell = self.prompt * len(self.teachers) + self.teacher
        shape, size = (len(self.prompts), len(self.teachers)), len(self.prompts) * len(self.teachers)
        x, y = metric.terms(self.columns, self.prompt)
        return Matrices(*(np.bincount(cell, weights, size).reshape(shape) for weights in (x, y, None)))

    def only(self, teachers: Iterable[str]) -> "Scored":
        """The trajectories of some teachers. Raises UserError for one that is not there."""
        wanted = sorted(teachers)
        if unknown := [name for name in wanted if name not in self.teachers]:
            raise UserError(f"--teachers {' '.join(unknown)}: not in the store; it has {', '.join(self.teachers)}")
        keep = np.isin(self.teacher, [self.teachers.index(name) for name in wanted])
        prompts, prompt = np.unique(self.prompt[keep], return_inverse=True)
        _, teacher = np.unique(self.teacher[keep], return_inverse=True)
        return Scored(wanted, self.prompts.take(pa.array(prompts)), teacher, prompt, {name: values[keep] for name, values in self.columns.items()})


@dataclass(frozen=True)
class Matrices:
    """Sums of a metric's terms over the answers of a teacher to a prompt, float64 [P, T], and how many there are, [P, T]."""

    x: np.ndarray
    y: np.ndarray
    n: np.ndarray

    def matched(self) -> "Matrices":
        """Only prompts that every teacher answered, and of several answers of a teacher their mean: every prompt weighs the same."""
        whole = (self.n > 0).all(1)
        n = self.n[whole]
        return Matrices(self.x[whole] / n, self.y[whole] / n, np.ones_like(n))


def load_scored(store: Store, metrics: Iterable[Metric] = REGISTRY.values(), more: Iterable[str] = ()) -> Scored:
    """The score rows that the store's teachers table was made of. Raises UserError where there are none.

    `more` names further number columns of SCORES. A trajectory_id that a teacher has twice counts once, the first by source
    and row.
    """
    fingerprint = store.generation()
    names = store.units().get(fingerprint, [])
    _, repeated = settle_units(names)
    numbers = list(dict.fromkeys(["n_tokens", *(column for metric in metrics for column in metric.columns), *more]))
    columns = ["teacher", "trajectory_id", "prompt_id", "source", "source_row", "reject_reason", *numbers]

    def read(name: str) -> pa.Table:
        table = store.read_unit(fingerprint, name, columns)
        return table.filter(table["reject_reason"].is_null()).drop_columns(["reject_reason"])

    with ThreadPoolExecutor(8) as pool:
        tables = list(pool.map(read, sorted(set(names) - set(repeated))))
    if not sum(table.num_rows for table in tables):
        raise UserError(f"store {store.uri}: nothing of student {store.student_name} was scored: every row was rejected")
    rows = pa.concat_tables(tables).combine_chunks()
    teacher, teachers = _codes(rows["teacher"])
    trajectory, _ = _codes(rows["trajectory_id"])
    order = np.lexsort((rows["source_row"].to_numpy(), _codes(rows["source"])[0], trajectory, teacher))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(teacher[order]) != 0) | (np.diff(trajectory[order]) != 0)
    order = order[first]
    prompt, prompts = _codes(rows["prompt_id"].take(pa.array(order)))
    values = {name: rows[name].to_numpy()[order] for name in numbers}
    return Scored(teachers.to_pylist(), prompts, teacher[order], prompt, values)


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """A column as int64 [N] indices into its sorted distinct values, and these."""
    encoded = pc.dictionary_encode(column).combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0)
    order = pc.sort_indices(encoded.dictionary)
    place = np.empty(len(order), np.int64)
    place[order.to_numpy()] = np.arange(len(order))
    return place[encoded.indices.to_numpy()], encoded.dictionary.take(order)
