"""The rejected rows of a store, by reason."""

from rich.console import Console
from rich.text import Text

from rsr_ray.errors import safe
from rsr_ray.schema import REJECT_REASONS
from rsr_ray.store.rejects import RejectedRow


def print_rejects(rows: list[RejectedRow], out: Console) -> None:
    """A row a line, by reason."""
    for reason in dict.fromkeys(sorted(row.reject_reason for row in rows)):
        some = [row for row in rows if row.reject_reason == reason]
        out.print(
            Text(f"{len(some):,} {reason}: {REJECT_REASONS[reason]}", style="bold"), soft_wrap=True
        )
        for row in some:
            what = f"{row.source} row {row.source_row}: {row.reject_detail}"
            out.print(Text(safe(f"  {row.teacher}  {row.trajectory_id}  {what}")), soft_wrap=True)
    if not rows:
        out.print("No rows were rejected.")
