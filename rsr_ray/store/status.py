"""status: what is in a store, what ran last, and what is running. Reads only; never starts Ray."""

import datetime
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rsr_ray.errors import StoreError, UserError
from rsr_ray.files.filesystems import absolute
from rsr_ray.files.objects import list_infos
from rsr_ray.store.figures import NightFigures, RunFigures, read_figures
from rsr_ray.store.lease import CLAIM, NUMBERED, SECONDS, read_holder
from rsr_ray.store.manifest import part_at
from rsr_ray.store.records import NIGHT_FILE
from rsr_ray.store.scores import STUDENT_NAME
from rsr_ray.store.store import RUN_NAME, Store
from rsr_ray.store.teacher_rows import TeacherRow, teacher_rows
from rsr_ray.store.units import unit_at, written_ns

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo

Infos = dict[str, "FileInfo"]  # by path


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The units that a student has under a fingerprint."""

    fingerprint: str
    units: int
    bytes: int  # of scores and token scores
    written: str | None  # the last of them; ISO 8601, UTC; None where the store does not say
    ranked: bool  # whether the teachers table is of this one


@dataclass(frozen=True, kw_only=True)
class StudentStatus:
    """A student in a store."""

    name: str
    generations: list[Generation]  # the last written first
    teachers: int | None  # None, as the next two, where there is no teachers table
    trajectories: int | None
    rejected: int | None
    table_problem: str | None  # why there is none
    last: RunFigures | None  # None where no run of this version ended


@dataclass(frozen=True, kw_only=True)
class Working:
    """Who is at work on a store, or was when it died."""

    what: str  # nightly, or run
    student: str | None  # of a run
    fingerprint: str | None  # of a run
    holder: str | None  # its machine and process; None where its file cannot be read
    since: str | None  # by its machine's clock; None where an earlier version runs
    seen: float  # seconds since its last sign of life, by this machine's clock
    alive: bool  # whether it gave one lately enough


@dataclass(frozen=True, kw_only=True)
class StoreStatus:
    """What is in a store, what ran last, and what is running."""

    store: str
    files: int
    bytes: int
    runs: int
    nights: int
    night: NightFigures | None  # the last; None where none of this version ended
    working: list[Working]
    students: list[StudentStatus]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_status(uri: str, endpoint: str | None) -> StoreStatus:
    """The status of a store. Raises UserError where there is none."""
    root = absolute(uri)
    infos = list_infos(root, endpoint)
    names = {
        name
        for kind in ("scores", "teachers")
        for place in infos
        if (name := _student(place, kind)) is not None
    }
    figures = read_figures(root, endpoint)
    if not names and not figures.students and not figures.night:
        raise UserError(
            f"store {root}: nothing was scored into it yet, or it is no store; check --store and "
            "--s3-endpoint"
        )
    names |= figures.students.keys()
    return StoreStatus(
        store=root,
        files=len(infos),
        bytes=sum(info.size for info in infos.values()),
        runs=_count(infos, "runs/", RUN_NAME),
        nights=_count(infos, "nightly/", NIGHT_FILE),
        night=figures.night,
        working=_working(root, endpoint, infos),
        students=[
            _student_status(Store(root, name, endpoint), infos, figures.students.get(name))
            for name in sorted(names)
        ],
    )


def _student(place: str, kind: str) -> str | None:
    """Whose scores or table lie at a place."""
    if not place.startswith(f"{kind}/student="):
        return None
    name = place.split("/")[1].removeprefix("student=").removesuffix(".parquet")
    return name if STUDENT_NAME.fullmatch(name) else None


def _count(infos: Infos, folder: str, pattern: Any) -> int:
    inside = (place.removeprefix(folder) for place in infos if place.startswith(folder))
    return sum(bool(pattern.fullmatch(name)) for name in inside)


def _student_status(store: Store, infos: Infos, last: RunFigures | None) -> StudentStatus:
    rows: list[TeacherRow] | None = None
    problem = None
    try:
        rows = teacher_rows(store.read_teachers())
    except (UserError, StoreError) as e:
        problem = str(e)
    of_table = {row.fingerprint for row in rows or []}
    return StudentStatus(
        name=store.student_name,
        generations=_generations(store, infos, of_table),
        teachers=None if rows is None else len(rows),
        trajectories=None if rows is None else sum(row.n_trajectories for row in rows),
        rejected=None if rows is None else sum(row.n_rejected for row in rows),
        table_problem=problem,
        last=last,
    )


def _generations(store: Store, infos: Infos, ranked: set[str]) -> list[Generation]:
    """The last written first."""
    sizes: dict[str, int] = defaultdict(int)
    for kind in ("scores", "tokens"):
        folder = f"{kind}/student={store.student_name}/"
        for place, info in infos.items():
            path = place.removeprefix(folder)
            if place != path and (unit_at(path) or part_at(path)):
                sizes[path.partition("/")[0]] += info.size
    found = [
        Generation(
            fingerprint=fingerprint,
            units=len(units),
            bytes=sizes[fingerprint],
            written=_said(max(map(written_ns, units.values()))),
            ranked=fingerprint in ranked,
        )
        for fingerprint, units in store.listing().units.items()
    ]
    return sorted(found, key=lambda one: one.written or "", reverse=True)


def _said(ns: int) -> str | None:
    time = datetime.datetime.fromtimestamp(ns // 10**9, datetime.UTC)
    return time.isoformat(timespec="seconds") if ns else None


def _working(root: str, endpoint: str | None, infos: Infos) -> list[Working]:
    """Who holds the lease of nights, and who has claimed a student."""
    leases = [place for place in infos if NUMBERED.fullmatch(place.removeprefix("nightly/lease/"))]
    found = [
        _holding(root, endpoint, infos, "nightly/lease", place.rpartition("/")[2], None)
        for place in sorted(leases)[-1:]
    ]
    for place in sorted(infos):
        top, _, rest = place.partition("/")
        folder, _, name = rest.partition("/")
        if top == "claims" and folder.startswith("student=") and CLAIM.fullmatch(name):
            student = folder.removeprefix("student=")
            found.append(_holding(root, endpoint, infos, f"claims/{folder}", name, student))
    return [working for working in found if working is not None]


def _holding(
    root: str, endpoint: str | None, infos: Infos, folder: str, name: str, student: str | None
) -> Working | None:
    """Who holds a lease or a claim; None where it was let go."""
    wrote = read_holder(f"{root}/{folder}", name, endpoint)
    if wrote and wrote.released:
        return None
    written = infos[f"{folder}/{name}"].mtime
    now = datetime.datetime.now(datetime.UTC)
    seen = max(0.0, (now - written).total_seconds()) if written else 0.0
    claim = CLAIM.fullmatch(name)
    return Working(
        what="run" if student else "nightly",
        student=student,
        fingerprint=claim["fingerprint"] if claim else None,
        holder=wrote.holder if wrote else None,
        since=wrote.since if wrote else None,
        seen=round(seen, 1),
        alive=seen < (wrote.seconds if wrote else SECONDS),
    )
