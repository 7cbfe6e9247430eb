"""The findings of doctor."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from rsr_ray.errors import safe

if TYPE_CHECKING:
    from rsr_ray.run.doctor.doctor import Examination
    from rsr_ray.run.doctor.night import NightExamination

STYLE = {"ok": "green", "warning": "yellow", "failure": "bold red"}


def print_doctor(found: "Examination", out: Console) -> None:
    """The sample with what is scored marked, then a line a finding."""
    for shown in found.shown:
        line = Text(safe(f"{shown.trajectory_id}: "), style="bold")
        if shown.reject:
            line.append(safe(f"rejected: {shown.reject}"), style="red")
        at = 0
        for start, stop in shown.spans:
            line.append(_middle_out(shown.text[at:start]), style="dim")
            line.append("«" + _middle_out(shown.text[start:stop]) + "»", style="green")
            at = stop
        out.print(line, soft_wrap=True)
    if found.shown:
        out.print(Text("«scored», the rest is context\n", style="dim"))
    _print_findings(found, out)


def print_night_check(night: "NightExamination", out: Console) -> None:
    """The findings of each student, then what follows for the night."""
    for n, (name, found) in enumerate(night.students.items(), 1):
        out.print(Text(safe(f"student {n} of {len(night.students)}, {name}"), style="bold"))
        _print_findings(found, out)
        out.print()
    out.print(Text(safe(night.sentence), style="bold red" if night.failed else ""), soft_wrap=True)


def _print_findings(found: "Examination", out: Console) -> None:
    for finding in found.findings:
        line = safe(f" {finding.check}: {finding.says}")
        out.print(Text.assemble((f"{finding.level:8}", STYLE[finding.level]), line), soft_wrap=True)


def _middle_out(text: str) -> str:
    """A text in one line, its middle left out where it is long."""
    text = safe(" ".join(text.replace("\n", "⏎ ").split()))
    return text if len(text) <= 80 else f"{text[:38]} … {text[-38:]}"
