"""The findings of doctor."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from rsr_ray.errors import safe

if TYPE_CHECKING:
    from rsr_ray.run.doctor.doctor import Doctor


def print_doctor(doctor: "Doctor", out: Console) -> None:
    """The sample with what is scored marked, then a line a finding."""
    for shown in doctor.shown:
        line = Text(safe(f"{shown.trajectory_id}: "), style="bold")
        if shown.reject:
            line.append(safe(f"rejected: {shown.reject}"), style="red")
        at = 0
        for start, stop in shown.spans:
            line.append(_middle_out(shown.text[at:start]), style="dim")
            line.append("«" + _middle_out(shown.text[start:stop]) + "»", style="green")
            at = stop
        out.print(line, soft_wrap=True)
    if doctor.shown:
        out.print(Text("«scored», the rest is context\n", style="dim"))
    style = {"ok": "green", "warning": "yellow", "failure": "bold red"}
    for finding in doctor.findings:
        out.print(
            Text.assemble(
                (f"{finding.level:8}", style[finding.level]), f" {finding.check}: {finding.says}"
            ),
            soft_wrap=True,
        )


def _middle_out(text: str) -> str:
    """A text in one line, its middle left out where it is long."""
    text = safe(" ".join(text.replace("\n", "⏎ ").split()))
    return text if len(text) <= 80 else f"{text[:38]} … {text[-38:]}"
