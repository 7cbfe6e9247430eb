"""The teachers of a store, one a row, without certainty."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsr_ray.errors import safe


def print_teachers(teachers: list[dict[str, Any]], student_name: str, out: Console) -> None:
    """The ranking: lowest rsr first, the length beside it."""
    title = Text(f"Teachers for student {student_name}, sorted by rsr (lower is better)")
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        show_edge=False,
    )
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
            f"{t[name]:.3f}" if t[name] is not None else "-"
            for name in ("rsr", "mean_rank", "mean_surprisal")
        ]
        length = f"{t['mean_tokens']:,.0f}" if t["mean_tokens"] is not None else "-"
        counts = [
            f"{t[name]:,}"
            for name in ("n_trajectories", "n_rejected", "n_duplicates", "n_truncated")
        ]
        table.add_row(str(t["place"] or "-"), Text(safe(t["teacher"])), *numbers, length, *counts)
    out.print(table)
