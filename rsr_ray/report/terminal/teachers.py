"""The teachers of a store, one a row, without certainty."""

from rich.console import Console
from rich.text import Text

from rsr_ray.errors import safe
from rsr_ray.report.terminal.console import titled_table
from rsr_ray.store.teacher_rows import TeacherRow


def print_teachers(teachers: list[TeacherRow], student_name: str, out: Console) -> None:
    """The ranking: lowest rsr first, the length beside it."""
    table = titled_table(f"Teachers for student {student_name}, sorted by rsr (lower is better)")
    table.add_column("#", justify="right")
    table.add_column("teacher", overflow="fold", min_width=12)
    for name in (
        "rsr\nlower=better",
        "mean\nrank",
        "nats per\ntoken",
        "tokens\neach",
        "scored",
        "rejec-\nted",
        "dupli-\ncates",
        "trun-\ncated",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for t in teachers:
        numbers = [
            f"{value:.3f}" if value is not None else "-"
            for value in (t.rsr, t.mean_rank, t.mean_surprisal)
        ]
        length = f"{t.mean_tokens:,.0f}" if t.mean_tokens is not None else "-"
        counts = [f"{n:,}" for n in (t.n_trajectories, t.n_rejected, t.n_duplicates, t.n_truncated)]
        table.add_row(str(t.place or "-"), Text(safe(t.teacher)), *numbers, length, *counts)
    out.print(table)
