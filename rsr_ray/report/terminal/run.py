"""A run: its row equation, rejects and files."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from rsr_ray.errors import counted, safe
from rsr_ray.report.terminal.console import print_notes
from rsr_ray.run.display import duration
from rsr_ray.schema import REJECT_REASONS

if TYPE_CHECKING:
    from rsr_ray.run.ledger import Run

SHOWN_REASONS = 3  # of rejects, in the summary of a run


def print_run(run: "Run", store_uri: str, out: Console) -> None:
    """The row equation, what it took, the rejects by reason, and where the files are: twelve
    lines at most.
    """
    out.print(Text(run.equation))
    _print_speed(run, out)
    print_notes(run.units.notes, out)
    _print_rejects(run, out)
    student = run.config.student_name
    for name, place in (
        ("scores", f"scores/student={student}/"),
        ("teachers", f"teachers/student={student}.parquet"),
        ("run", f"runs/{run.run_id}.json"),
    ):
        out.print(Text(f"{name:10}{store_uri}/{place}"), soft_wrap=True)


def _print_speed(run: "Run", out: Console) -> None:
    counts = run.counts
    if counts.n_scored:
        took = f"{counts.n_all_tokens:,} tokens in {duration(run.record.seconds)}"
        if expected := run.record.estimate:
            least, most = 3600 * expected.hours_low, 3600 * expected.hours_high
            took += f" (estimated: {duration(least)} to {duration(most)})"
        speed = f"{run.record.tokens_per_second:,.0f} tokens/s"
        out.print(Text(f"{took}: {speed}, padding {run.record.padding_share:.0%}"))
    if counts.splits:
        what = "batches were split and made smaller; --batch-tokens sets their size"
        out.print(Text(f"  out of memory {counted(counts.splits, 'time')}: {what}"))


def _print_rejects(run: "Run", out: Console) -> None:
    """The most frequent reasons, each with an example."""
    for reason, n in run.counts.rejected.most_common(SHOWN_REASONS):
        why = f"{REJECT_REASONS[reason]} Example: {run.counts.examples[reason]}"
        out.print(Text(safe(f"  rejected {n:,} {reason}: {why}")), soft_wrap=True)
    if (more := len(run.counts.rejected) - SHOWN_REASONS) > 0:
        out.print(Text(f"  and {more} more reasons: rsr-ray rejects lists them"))
