"""sides: the two things that are compared, each a student of a store, now or after some night."""

import datetime
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from rsr_ray.config.nightly import NIGHT
from rsr_ray.decide import loading
from rsr_ray.decide.loading import gives, load_files
from rsr_ray.decide.nights import Night, StudentNight
from rsr_ray.decide.ranking import Ranking
from rsr_ray.decide.scored import Scored
from rsr_ray.errors import UserError
from rsr_ray.files.filesystems import absolute
from rsr_ray.files.objects import list_files
from rsr_ray.metrics import RSR, Metric
from rsr_ray.store.records import NIGHT_FILE, NIGHT_KEYS, get_record, night_place
from rsr_ray.store.score_files import ScoreFile
from rsr_ray.store.scores import STUDENT_NAME
from rsr_ray.store.store import Store
from rsr_ray.store.teacher_rows import TeacherRow

AFTER_MARK = re.compile(rf"(?P<student>{STUDENT_NAME.pattern})?(@(?P<night>{NIGHT.pattern}))?")


@dataclass(frozen=True)
class SideFacts:
    """Which scores a side stands for."""

    store: str  # its URI
    student: str
    night: str | None  # None: the store as it is now
    fingerprint: str  # of the scores


@dataclass(frozen=True)
class Side:
    """One of the two sides of a comparison."""

    store: Store
    fingerprint: str
    night: str | None  # None: the store as it is now
    table: list[TeacherRow]  # of now or of the night
    ranking: Ranking | None  # of the night
    written: datetime.datetime | None  # when the night's record was, by the store's clock

    @property
    def facts(self) -> SideFacts:
        return SideFacts(self.store.uri, self.store.student_name, self.night, self.fingerprint)

    @property
    def teachers(self) -> list[str]:
        """The teachers in its table that have scores."""
        return [row.teacher for row in self.table if row.n_trajectories]

    def column(self, name: str, teachers: list[str]) -> list[Any]:
        """A column of its table for these teachers, in their order."""
        values = {row.teacher: getattr(row, name) for row in self.table}
        return [values[teacher] for teacher in teachers]

    def files(self) -> list[ScoreFile]:
        """Those with its score rows: of a night, of the units that are not younger than its record;
        none where these can no longer be told.
        """
        if self.night is None:
            return self.store.score_files(self.fingerprint)
        if self.written is None:
            return []
        units = self.store.units_until(self.fingerprint, self.written)
        return self.store.score_files(self.fingerprint, units)

    def load(self, metric: Metric, files: list[ScoreFile], share: float = 1.0) -> Scored | None:
        """Its score rows, or all answers to a share of the prompts; None for a night whose rows can
        no longer be told from the others.

        They count only if they give the night's own numbers again: a copied store has other times,
        and a shard that was replaced has lost its rows. Raises UserError for a store without
        scores.
        """
        if self.night and not files:
            return None
        rows = load_files(self.store, self.fingerprint, files, [metric, RSR], share=share)
        if self.night is None:
            return rows
        every = rows if share == 1 else load_files(self.store, self.fingerprint, files, [RSR])
        return rows if gives(every, self.table) else None


@dataclass(frozen=True)
class Pair:
    """Both sides, loaded."""

    a: Side
    b: Side
    rows: tuple[Scored, Scored] | None  # None: only aggregates are known of one side or both
    lost: list[str]  # nights whose rows can no longer be told
    share: float = 1.0  # of the prompts that are compared, drawn at random

    @classmethod
    def load(cls, a: Side, b: Side, metric: Metric) -> "Pair":
        """Raises UserError for a store without scores."""
        files = a.files(), b.files()
        most = max(sum(file.n_rows for file in some) for some in files)
        share = min(1.0, loading.MOST_ROWS / max(1, most))
        rows_a, rows_b = (
            side.load(metric, some, share) for side, some in zip((a, b), files, strict=True)
        )
        rows = (rows_a, rows_b) if rows_a and rows_b else None
        loaded = ((a, rows_a), (b, rows_b))
        lost = [str(side.night) for side, of_side in loaded if of_side is None]
        return cls(a, b, rows, lost, share)

    @property
    def note(self) -> str | None:
        """What is compared, if it is not all."""
        if self.share == 1 or self.rows is None:
            return None
        counts = " and ".join(f"{len(side.prompts):,}" for side in self.rows)
        return (
            f"all but the numbers of trajectories is of {self.share:.2g} of the prompts, drawn at "
            f"random: {counts} on A and B"
        )

    @property
    def is_one_history(self) -> bool:
        """Whether these are two nights of one student, or a night and now.

        One side then holds most of what the other does.
        """
        places = [(side.store.uri, side.store.student_name) for side in (self.a, self.b)]
        same = self.a.fingerprint == self.b.fingerprint and places[0] == places[1]
        return same and (self.a.night, self.b.night) != (None, None)

    @property
    def teachers(self) -> tuple[list[str], list[str]]:
        """The teachers with scores on A, and those on B."""
        if self.rows is None:
            return self.a.teachers, self.b.teachers
        return self.rows[0].teachers, self.rows[1].teachers

    def shared_teachers(self) -> list[str]:
        """Teachers with scores on both sides, sorted. Raises UserError if there are none."""
        on_a, on_b = self.teachers
        shared = sorted({*on_a} & {*on_b})
        if not shared:
            raise UserError(
                f"no teacher is on both sides: A has {', '.join(on_a) or 'none'}; B has "
                f"{', '.join(on_b) or 'none'}"
            )
        return shared

    def n_trajectories(self, teachers: list[str]) -> np.ndarray:
        """How many trajectories each of these teachers has on A and on B, int [2, T]."""
        if self.rows is None or self.share < 1:
            counts = [side.column("n_trajectories", teachers) for side in (self.a, self.b)]
        else:
            counts = [_count_trajectories(side, teachers) for side in self.rows]
        return np.array(counts, np.int64)


def _count_trajectories(scored: Scored, teachers: list[str]) -> list[int]:
    counts = np.bincount(scored.teacher, minlength=len(scored.teachers))
    return [int(counts[scored.teachers.index(name)]) for name in teachers]


def open_side(text: str, endpoint: str | None = None) -> Side:
    """Open a side as the command line names it.

    STORE, STORE#STUDENT, STORE#STUDENT@NIGHT or STORE#@NIGHT; STUDENT may be omitted if the store
    has only one. The last # is the separator: an @ or a further # before it belongs to the store.
    `endpoint` is that of an S3 server other than AWS.

    Raises UserError for a name in another format, and for a store, student or night that does not
    exist.
    """
    store_name, mark, rest = text.rpartition("#")
    named = AFTER_MARK.fullmatch(rest if mark else "")
    if not named or not (store_name or rest):
        raise UserError(
            f"{text!r}: use STORE, STORE#STUDENT, STORE#STUDENT@NIGHT or STORE#@NIGHT; append a "
            "# to a store whose name contains one"
        )
    uri = absolute(store_name if mark else rest)
    student = named["student"] or _only_student(uri, endpoint)
    store = Store(uri, student, endpoint)
    if named["night"]:
        return _open_night(store, named["night"])
    return Side(store, store.generation(), None, store.read_teacher_rows(), None, None)


def _open_night(store: Store, night: str) -> Side:
    """The store's student after a night. Raises UserError if its record has no such results."""
    files = list_files(f"{store.uri}/nightly", store.endpoint)
    written = {
        name.removesuffix(".json"): when
        for name, when in files.items()
        if NIGHT_FILE.fullmatch(name)
    }
    if night not in written:
        known = ", ".join(sorted(written)[-5:]) or "none"
        raise UserError(f"store {store.uri}: no night {night}; latest nights: {known}")
    record = get_record(store.uri, night_place(night), NIGHT_KEYS, store.endpoint)
    entry = Night.from_json(record).students.get(store.student_name)
    if not isinstance(entry, StudentNight):
        raise UserError(
            f"store {store.uri}: night {night} has no results of student {store.student_name}"
        )
    return Side(store, entry.fingerprint, night, entry.teachers, entry.ranking, written[night])


def _only_student(uri: str, endpoint: str | None) -> str:
    """Raises UserError unless the store has exactly one student."""
    students = Store.students(uri, endpoint)
    if not students:
        raise UserError(f"store {uri}: no student was scored there yet: run rsr-ray score")
    if len(students) > 1:
        known = ", ".join(students)
        raise UserError(f"store {uri}: several students; name one as {uri}#STUDENT: {known}")
    return students[0]
