"""The nights of a store: a record each."""

from typing import Any, NotRequired, TypedDict, cast

from rsr_ray.files.objects import list_files
from rsr_ray.store.records import NIGHT_FILE, NIGHT_KEYS, find_record, night_place, put_record


class StudentNight(TypedDict):
    """A student's results of a night, as the record has them; after a failure only `error`."""

    error: str | None
    run_id: NotRequired[str]
    fingerprint: NotRequired[str]
    equation: NotRequired[dict[str, Any]]  # of the run: rows read, scored, rejected, scored before
    seconds: NotRequired[float]
    teachers: NotRequired[list[dict[str, Any]]]  # TEACHERS rows
    ranking: NotRequired[dict[str, Any] | None]  # Ranking.to_json; None if nothing was scored
    changes: NotRequired[dict[str, Any] | None]  # Changes.to_json; None if there is nothing before
    since: NotRequired[str | None]  # the night that `changes` starts from


class Night(TypedDict):
    """The record of a night."""

    night: str  # its name
    students: dict[str, StudentNight]
    report: NotRequired[str]  # URI of the page
    report_error: NotRequired[str]  # why there is none


class LastNight(StudentNight):
    """A student's results of an earlier night."""

    night: str


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
            self._read[night] = cast(Night | None, found)
        return self._read[night]

    def read_entry(self, student: str, night: str) -> StudentNight | None:
        """A student's results of a night."""
        found = self.read(night)
        return found["students"].get(student) if found else None

    def write(self, night: Night) -> None:
        put_record(self.store, night_place(night["night"]), dict(night), self.endpoint)
        self._read.pop(night["night"], None)

    def last(self, student: str, night: str) -> LastNight | None:
        """A student's results of the last night before this one in which it has any."""
        for name in reversed([n for n in self.nights if n < night]):
            entry = self.read_entry(student, name)
            if entry and "teachers" in entry:
                return {**entry, "night": name}
        return None
