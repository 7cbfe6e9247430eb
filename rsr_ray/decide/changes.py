"""changes: what changed between two nights, said no more surely than the rankings are."""

import dataclasses
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rsr_ray.decide.ranking import TeacherPlace
from rsr_ray.store.teacher_rows import TeacherRow

if TYPE_CHECKING:
    from rsr_ray.decide.nights import StudentNight


@dataclass(frozen=True)
class Move:
    """A teacher that has another place, from 1, among the teachers of both nights."""

    teacher: str
    was: int
    now: int

    def to_json(self) -> dict[str, Any]:
        return {"teacher": self.teacher, "from": self.was, "to": self.now}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Move":
        return cls(found["teacher"], was=found["from"], now=found["to"])


@dataclass(frozen=True)
class Newcomer:
    """A teacher that only the later night has; place and rsr are None where nothing was scored."""

    teacher: str
    place: int | None
    of: int  # teachers with a place
    rsr: float | None  # on the prompts of the ranking


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What changed for a student between two nights."""

    new_trajectories: dict[str, int]  # by teacher; fewer is negative
    new_teachers: list[Newcomer]
    gone_teachers: list[str]
    moved: list[Move]  # surely
    unsure: list[Move] = field(default_factory=list)  # earlier versions do not have it
    new_rejects: dict[str, int]  # by reason

    def to_json(self) -> dict[str, Any]:
        """As the record of a night has it."""
        return dataclasses.asdict(self) | {
            "moved": [move.to_json() for move in self.moved],
            "unsure": [move.to_json() for move in self.unsure],
        }

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> "Changes":
        """Changes of `to_json`, of this version or an earlier one."""
        return cls(
            new_trajectories=found["new_trajectories"],
            new_teachers=[Newcomer(**newcomer) for newcomer in found["new_teachers"]],
            gone_teachers=found["gone_teachers"],
            moved=[Move.from_json(move) for move in found["moved"]],
            unsure=[Move.from_json(move) for move in found.get("unsure", [])],
            new_rejects=found["new_rejects"],
        )


def compare(last: "StudentNight | None", now: "StudentNight") -> Changes | None:
    """What changed between two nights' results of a student; None where there is nothing to compare
    with.
    """
    if last is None or last.fingerprint != now.fingerprint:
        return None
    old, new = ({t.teacher: t for t in night.teachers} for night in (last, now))
    moved, unsure = _moves(last, now)
    return Changes(
        new_trajectories=_differences(
            {name: t.n_trajectories for name, t in new.items()},
            {name: t.n_trajectories for name, t in old.items()},
        ),
        new_teachers=_newcomers(now, [name for name in new if name not in old]),
        gone_teachers=sorted(old.keys() - new.keys()),
        moved=moved,
        unsure=unsure,
        new_rejects=_differences(_rejects(new.values()), _rejects(old.values())),
    )


def _moves(last: "StudentNight", now: "StudentNight") -> tuple[list[Move], list[Move]]:
    """Teachers that have surely moved, and those whose change may be noise.

    A teacher's place has changed where it is another among the teachers of both nights: one that
    only makes room for a newcomer keeps its own. It has moved where the places that it may have
    among them (`bounds`) are others.
    """
    was, is_now = _scored_places(last), _scored_places(now)
    both = [name for name in was if name in is_now]
    before = sorted(both, key=was.__getitem__)
    after = sorted(both, key=is_now.__getitem__)
    could, can = bounds(last, both), bounds(now, both)
    moved: list[Move] = []
    unsure: list[Move] = []
    for name in after:
        if before.index(name) == after.index(name) or was[name] == is_now[name]:
            continue
        is_sure = name in could and name in can and apart(could[name], can[name])
        (moved if is_sure else unsure).append(Move(name, was[name], is_now[name]))
    return moved, unsure


def _newcomers(now: "StudentNight", names: list[str]) -> list[Newcomer]:
    taken = places(now)
    n_ranked = len(_scored_places(now))
    values = {t.teacher: t.value for t in _ranked(now)}
    table = {t.teacher: t for t in now.teachers}
    return [
        Newcomer(name, taken[name], of=n_ranked, rsr=values.get(name, table[name].rsr))
        for name in names
    ]


def places(night: "StudentNight") -> dict[str, int | None]:
    """Of a night's results the place of each teacher in its ranking, None for one without scores;
    nights of earlier versions have those of the teachers table.
    """
    if not night.ranking:
        return {t.teacher: t.place for t in night.teachers}
    ranked = {t.teacher: t.place for t in _ranked(night)}
    return {t.teacher: ranked.get(t.teacher) for t in night.teachers}


def _scored_places(night: "StudentNight") -> dict[str, int]:
    return {name: place for name, place in places(night).items() if place is not None}


def bounds(night: "StudentNight", among: Collection[str]) -> dict[str, tuple[int, int]]:
    """Of a night's ranking the places that each of some teachers may have among these, where that
    is known.

    Of the others, those that come before a teacher are not surely worse than it, and of those
    behind it none is surely better: without them its places lie between its bounds less the number
    of those before it.
    """
    found = {}
    others_before = 0
    for t in sorted(_ranked(night), key=lambda t: t.place):
        if t.teacher not in among:
            others_before += 1
        elif t.first_place is not None and t.last_place is not None:
            found[t.teacher] = (t.first_place - others_before, t.last_place - others_before)
    return found


def _ranked(night: "StudentNight") -> list[TeacherPlace]:
    """The teachers of the night's ranking, in those of earlier versions without bounds on places;
    none where there is no ranking.
    """
    return night.ranking.teachers if night.ranking else []


def apart(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[1] < b[0] or b[1] < a[0]


def _differences(new: dict[str, int], old: dict[str, int]) -> dict[str, int]:
    """Of each name in `new` how much more it has there, where that is not nothing."""
    more = {name: n - old.get(name, 0) for name, n in new.items()}
    return {name: n for name, n in more.items() if n}


def _rejects(teachers: Iterable[TeacherRow]) -> dict[str, int]:
    """The rejects of all teachers, by reason."""
    total: dict[str, int] = {}
    for t in teachers:
        for reason, n in t.rejects.items():
            total[reason] = total.get(reason, 0) + n
    return total
