"""nights: the nights of a store, a record each."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rsr_ray.decide.changes import Changes
from rsr_ray.decide.ranking import Ranking
from rsr_ray.files.objects import list_files
from rsr_ray.store.lease import Held
from rsr_ray.store.records import (
    NIGHT_FILE,
    NIGHT_KEYS,
    find_record,
    night_place,
    put_record,
    read_as,
)
from rsr_ray.store.run_record import Equation
from rsr_ray.store.teacher_rows import TeacherRow


@dataclass(frozen=True, kw_only=True)
class StudentNight:
    """A student's results of a night. None is also what a record of an earlier version lacks."""

    error: str | None  # why the ranking does not stand on the whole corpus
    run_id: str
    fingerprint: str
    equation: Equation
    seconds: float
    teachers: list[TeacherRow]
    ranking: Ranking | None  # None if nothing was scored
    changes: Changes | None  # None if there is nothing to compare with
    since: str | None  # the night that `changes` starts from

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"changes": self.changes and self.changes.to_json()}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "StudentNight":
        ranking, changes = found.get("ranking"), found.get("changes")
        parts = {
            "equation": read_as(Equation, found.get("equation") or {}),
            "teachers": [read_as(TeacherRow, row) for row in found["teachers"]],
            "ranking": Ranking.from_json(ranking) if ranking else None,
            "changes": Changes.from_json(changes) if changes else None,
        }
        return read_as(cls, {**found, **parts})


@dataclass(frozen=True)
class FailedNight:
    """A night in which a student has no results."""

    error: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Night:
    """The record of a night."""

    night: str  # its name
    students: dict[str, StudentNight | FailedNight]
    report: str | None = None  # URI of the page; None if there is nothing to report
    report_error: str | None = None  # why the page could not be made

    @property
    def problem(self) -> str | None:
        """Why the night failed, or None."""
        if self.report_error:
            return self.report_error
        failed = [name for name, student in self.students.items() if student.error]
        if not failed:
            return None
        return (
            f"{len(failed)} of {len(self.students)} students failed in night {self.night}: "
            f"{', '.join(failed)}"
        )

    def to_json(self) -> dict[str, Any]:
        """As nightly/<night>.json has it."""
        students = {name: entry.to_json() for name, entry in self.students.items()}
        page = {"report": self.report, "report_error": self.report_error}
        said = {name: text for name, text in page.items() if text is not None}
        return {"night": self.night, "students": students} | said

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Night":
        """A night of `to_json`, of this version or an earlier one."""
        students = {
            name: StudentNight.from_json(entry)
            if "teachers" in entry
            else read_as(FailedNight, entry)
            for name, entry in found["students"].items()
        }
        return read_as(cls, {**found, "students": students})


@dataclass(frozen=True)
class HeldNight:
    """A night that was not done, because another run holds the store's lease."""

    night: str
    held_by: Held

    def to_json(self) -> dict[str, Any]:
        return {"night": self.night, "held_by": self.held_by.to_json()}


@dataclass(frozen=True)
class LastNight:
    """An earlier night in which a student has results."""

    night: str
    results: StudentNight


class History:
    """The nights of a store. A record that is not what was written is named and left out."""

    def __init__(self, store: str, endpoint: str | None):
        self.store, self.endpoint = store, endpoint
        self.nights = sorted(
            n.removesuffix(".json")
            for n in list_files(f"{store}/nightly", endpoint)
            if NIGHT_FILE.fullmatch(n)
        )
        self._read: dict[str, Night | None] = {}

    def read(self, night: str) -> Night | None:
        """The record of a night; None where there is none."""
        if night not in self._read:
            found = (
                find_record(self.store, night_place(night), NIGHT_KEYS, self.endpoint)
                if night in self.nights
                else None
            )
            self._read[night] = Night.from_json(found) if found else None
        return self._read[night]

    def read_results(self, student: str, night: str) -> StudentNight | None:
        """A student's results of a night; None where it has none."""
        found = self.read(night)
        entry = found.students.get(student) if found else None
        return entry if isinstance(entry, StudentNight) else None

    def write(self, night: Night) -> None:
        put_record(self.store, night_place(night.night), night.to_json(), self.endpoint)
        self._read.pop(night.night, None)

    def last(self, student: str, night: str) -> LastNight | None:
        """A student's results of the last night before this one in which it has any."""
        for name in reversed([n for n in self.nights if n < night]):
            if results := self.read_results(student, name):
                return LastNight(name, results)
        return None
