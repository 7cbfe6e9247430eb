"""scored: the trajectories of a student, and a metric's terms by prompt and teacher.

Teachers are compared by prompt, on the same prompts. Legend: N trajectories, P prompts, T teachers.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsr_ray.decide.flags import FlagCounts, Flags
from rsr_ray.decide.matrices import Matrices
from rsr_ray.decide.sums import Values
from rsr_ray.decide.views import Told
from rsr_ray.decide.whole import Whole
from rsr_ray.errors import UserError
from rsr_ray.metrics import Metric


@dataclass(frozen=True)
class Scored:
    """The scored trajectories of a student, each once, sorted by teacher and id.

    Of very many (loading.py) these are all answers to some prompts, which their hashes name; what
    all come to, `told` says.
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
    def per_teacher(self) -> np.ndarray:
        """Trajectories of each teacher, int [T]."""
        if self.told:
            return self.told.values.n
        return np.bincount(self.teacher, minlength=len(self.teachers))

    @property
    def n_trajectories(self) -> int:
        return int(self.per_teacher.sum())

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
        if self.told and self.told.by == metric.name and self.told.teachers:
            return self
        if self.told and self.told.by != metric.name:
            note = f"this is of that sample alone: load the scores with {metric.name} first"
            sample = self.where(np.ones(len(self.teacher), bool))
            return dataclasses.replace(sample, notes=(*self.notes, note)).valued(metric)
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


def _is(stratum: pa.Array, name: str) -> np.ndarray:
    """Which rows are of a stratum, bool [N]."""
    found: np.ndarray = pc.fill_null(pc.equal(stratum, name), False).to_numpy(zero_copy_only=False)
    return found
