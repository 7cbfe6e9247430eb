"""The findings of check."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from rsr_ray.errors import counted, safe

if TYPE_CHECKING:
    from rsr_ray.run.check import Checked


def print_check(checked: "Checked", out: Console) -> None:
    """What was read of a store, each finding, and what to do."""
    read = ", ".join(f"{n:,} {what}" for what, n in sorted(checked.files.items()))
    out.print(
        Text(f"Read {counted(sum(checked.files.values()), 'file')} of {checked.store}: {read}"),
        soft_wrap=True,
    )
    if checked.n_unsealed:
        out.print(
            Text(
                f"{checked.n_unsealed:,} of them were written by an earlier version without "
                "digests: they are readable but cannot be verified"
            )
        )
    for finding in checked.findings:
        removed = " (removed)" if finding.place in checked.removed else ""
        out.print(
            Text(safe(f"{finding.kind:<9} {finding.place}: {finding.detail}{removed}")),
            soft_wrap=True,
        )
    if checked.removed:
        what = (
            "the next run of rsr-ray score recreates units and tables; records of runs and "
            "nights are lost"
        )
        out.print(Text(f"Removed {counted(len(checked.removed), 'file')}: {what}"))
    elif not checked.is_well:
        out.print(
            Text(
                "--repair removes broken files; the next run of rsr-ray score recreates units "
                "and tables."
            )
        )
    else:
        out.print(Text("All files are intact."))
