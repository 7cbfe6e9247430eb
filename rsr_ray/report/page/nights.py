"""nights: what the report says of a store's nights."""

from dataclasses import dataclass

from rsr_ray.decide.changes import places
from rsr_ray.decide.nights import History, StudentNight

NIGHTS = 60  # the last ones, which are shown


@dataclass(frozen=True)
class ShownLastNight:
    """The store's last night."""

    name: str
    failed: dict[str, str]  # students without results -> the error

    @classmethod
    def of(cls, history: History) -> "ShownLastNight | None":
        """The last night; None if there is none, or its record cannot be read."""
        last = history.read(history.nights[-1]) if history.nights else None
        if last is None:
            return None
        failed = {name: entry.error for name, entry in last.students.items() if entry.error}
        return cls(history.nights[-1], failed)


@dataclass(frozen=True)
class ShownNight:
    """A student's results of a night."""

    night: str
    results: StudentNight
    places: dict[str, int | None]  # of the teachers; None for one that was not ranked


def nights_of(student: str, history: History) -> list[ShownNight]:
    """The last nights in which the student has results, oldest first."""
    return [
        ShownNight(night, results, places(results))
        for night in history.nights[-NIGHTS:]
        if (results := history.read_results(student, night))
    ]


def comparable(nights: list[ShownNight]) -> list[ShownNight]:
    """The nights with the last one's fingerprint and at least one place."""
    return [
        night
        for night in nights
        if night.results.fingerprint == nights[-1].results.fingerprint
        and any(night.places.values())
    ]
