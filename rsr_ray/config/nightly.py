"""The settings of `rsr-ray nightly`."""

import datetime
import re
from dataclasses import dataclass

from rsr_ray.config.options import check_least, option, settle
from rsr_ray.config.score import ScoreConfig
from rsr_ray.config.settings import shown
from rsr_ray.errors import UserError

NIGHT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class NightlyConfig:
    """What `rsr-ray nightly` does.

    `students` are whole score settings, each for one student, all on one store.
    """

    students: tuple[ScoreConfig, ...]
    night: str = option("name of the night; default: today's date in UTC", "")
    lease_seconds: int = option(
        "seconds for which a run that died blocks the next one; a live run renews its lease "
        "three times as often",
        300,
    )
    check: bool = option(
        "check students, corpora, store, cluster and disk, estimate the time of each student, and "
        "exit without scoring",
        False,
    )
    wait: int = option("seconds to wait for another nightly run on the store; 0: exit at once", 0)

    def __post_init__(self) -> None:
        settle(self)
        object.__setattr__(
            self, "night", str(self.night or datetime.datetime.now(datetime.UTC).date())
        )
        if not NIGHT.fullmatch(self.night):
            raise UserError(
                f"--night {self.night!r}: use letters, digits, '.', '_' and '-'; nights are "
                "ordered by name"
            )
        if self.lease_seconds < 3:
            raise UserError(f"lease_seconds {self.lease_seconds}: must be at least 3")
        check_least(self, 0, "wait")
        if not isinstance(self.students, tuple) or not all(
            isinstance(student, ScoreConfig) for student in self.students
        ):
            raise UserError(
                f"students: {shown(self.students)} is not a list of students, each with its own "
                "settings"
            )
        names = [student.student_name for student in self.students]
        if not names or len({*names}) < len(names):
            raise UserError(
                "students: each needs a distinct name (student_name); given: "
                f"{', '.join(map(str, names)) or 'none'}"
            )
