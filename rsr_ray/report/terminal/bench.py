"""The figures of a benchmark."""

from collections.abc import Callable
from typing import Any

from rich.table import Table

from rsr_ray.report.terminal.console import console


def print_bench(result: dict[str, Any]) -> None:
    """The figures as a terminal table."""
    out = console()
    table = Table(
        title=(
            f"{result['device']}: {result['tokens']:,} tokens, {result['scored_tokens']:,} scored"
        ),
        title_justify="left",
    )
    for name in ("", "engine", "naive"):
        table.add_column(name, justify="left" if not name else "right")
    rows: list[tuple[str, str, Callable[[float], str]]] = [
        ("trajectories/s", "trajectories_per_second", lambda v: f"{v:,.2f}"),
        ("tokens/s", "tokens_per_second", lambda v: f"{v:,.0f}"),
        ("scored tokens/s", "scored_tokens_per_second", lambda v: f"{v:,.0f}"),
        ("padding", "padding_share", lambda v: f"{v:.1%}"),
        ("peak above weights", "peak_bytes_above_weights", lambda v: f"{v / 2**20:,.0f} MiB"),
        ("share of the matmul ceiling", "share_of_matmul_ceiling", lambda v: f"{v:.1%}"),
    ]
    for title, key, show in rows:
        table.add_row(title, show(result["engine"][key]), show(result["naive"][key]))
    out.print(table)
    out.print(
        (
            f"engine over naive: {result['engine_over_naive']:.2f} x; matmul ceiling "
            f"{result['matmul_ceiling_tflops']:.3f} TFLOP/s"
        ),
        highlight=False,
    )
    for line in result.get("profile", []):
        out.print(f"  {line['share']:6.1%}  {line['operation']}", highlight=False)
    out.print(f"saved to {result['file']}", highlight=False)
