"""The figures of a store that outlive its runs: what the last run of each student and the last
night came to.

    <store>/status.json   `Figures`, sealed
    <store>/status.prom   the same for Prometheus, as OpenMetrics text (exposition.py)

Both are written whole, by one process at a time, at the end of each run and night, also of one that
failed, and after doctor's estimate. A run that was interrupted, or refused because of a mistake in
its settings, changes neither.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rsr_ray.files.objects import put
from rsr_ray.store.exposition import openmetrics
from rsr_ray.store.lease import one_at_a_time
from rsr_ray.store.records import find_record, put_record, read_as
from rsr_ray.store.run_record import Estimate

PLACE = "status.json"
TEXT_PLACE = "status.prom"
KEYS = ("students",)


@dataclass(frozen=True, kw_only=True)
class RunFigures:
    """What a student's last run came to. Times are ISO 8601, UTC."""

    run_id: str
    ended: str
    error: str | None  # why it failed, or why its ranking does not stand; None for a success
    last_success: str | None = None  # None where no run succeeded yet
    seconds: float
    new_trajectories: int  # that it scored
    rejected: int  # rows
    reject_share: float | None  # of the rows that it read anew; None where there was none
    tokens_per_second: float | None  # prompts included; None where nothing was scored
    gpu_hours: float  # of the GPUs that it held, from start to end
    trajectories: int | None  # that the student's teachers have in the store; None if it failed
    place_changes: int | None  # sure ones since the last night; None where none was compared


@dataclass(frozen=True, kw_only=True)
class NightFigures:
    """What the last night came to. Times are ISO 8601, UTC."""

    night: str  # its name
    ended: str
    error: str | None
    last_success: str | None = None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What status.json holds."""

    night: NightFigures | None = None  # None where there was none
    students: dict[str, RunFigures] = field(default_factory=dict)
    estimates: dict[str, Estimate] = field(default_factory=dict)  # of each student's next run

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Figures":
        """Figures of `to_json`, of this version or another one."""
        night = found.get("night")
        return cls(
            night=read_as(NightFigures, night) if night else None,
            students={name: read_as(RunFigures, run) for name, run in found["students"].items()},
            estimates={
                name: read_as(Estimate, expected)
                for name, expected in found.get("estimates", {}).items()
            },
        )

    def with_run(self, student: str, run: RunFigures) -> "Figures":
        """After a run of a student, which used up what was expected of it."""
        before = self.students.get(student)
        known = before.last_success if before else None
        success = run.ended if run.error is None else known
        estimates = {name: one for name, one in self.estimates.items() if name != student}
        students = {**self.students, student: replace(run, last_success=success)}
        return replace(self, students=students, estimates=estimates)

    def with_night(self, night: NightFigures) -> "Figures":
        """After a night."""
        known = self.night.last_success if self.night else None
        success = night.ended if night.error is None else known
        return replace(self, night=replace(night, last_success=success))


def read_figures(store: str, endpoint: str | None) -> Figures:
    """Those of a store; none where no run of this version ended, or where they are broken, which
    is said once.
    """
    found = find_record(store, PLACE, KEYS, endpoint)
    return Figures.from_json(found) if found else Figures()


def update_figures(
    store: str, endpoint: str | None, change: Callable[[Figures], Figures]
) -> Figures:
    """Change them, and write them anew. Raises OSError."""
    with one_at_a_time(f"{store}/claims/status/lock", endpoint, f"{store}/{PLACE}"):
        figures = change(read_figures(store, endpoint))
        put_record(store, PLACE, figures.to_json(), endpoint)
        put(f"{store}/{TEXT_PLACE}", openmetrics(figures, store), endpoint)
    return figures
