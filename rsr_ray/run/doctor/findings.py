"""What the checks found, and what a check does that fails."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

from rsr_ray.errors import BadRow, RunError, UserError

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Finding:
    """What a check found: `level` is ok, warning or failure."""

    check: str
    level: str
    says: str


class Findings:
    """What was found so far, in the order of the checks."""

    def __init__(self) -> None:
        self.all: list[Finding] = []

    @property
    def failed(self) -> bool:
        return any(finding.level == "failure" for finding in self.all)

    def ok(self, check: str, says: str) -> None:
        self.all.append(Finding(check, "ok", says))

    def warn(self, check: str, says: str) -> None:
        self.all.append(Finding(check, "warning", says))

    def fail(self, check: str, says: str) -> None:
        self.all.append(Finding(check, "failure", says))

    def look_at(
        self,
        check: str,
        how: Callable[Concatenate["Findings", Given], Answer],
        *args: Given.args,
        **kwargs: Given.kwargs,
    ) -> Answer | None:
        """What a check returns; None where it raises, which is a finding and no end."""
        try:
            return how(self, *args, **kwargs)
        except (UserError, RunError, OSError, BadRow) as e:
            self.fail(check, str(e))
        except Exception as e:  # a student's own files can break a library in any way
            self.fail(check, f"{type(e).__name__}: {' '.join(str(e).split())[:300]}")
        return None
