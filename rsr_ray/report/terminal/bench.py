"""The figures of a benchmark."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.table import Table

from rsr_ray.report.terminal.console import console

if TYPE_CHECKING:
    from rsr_ray.bench.bench import Benchmark, Figures


def print_bench(result: "Benchmark") -> None:
    """The figures as a terminal table."""
    out = console()
    table = Table(
        title=(f"{result.device}: {result.tokens:,} tokens, {result.scored_tokens:,} scored"),
        title_justify="left",
    )
    for name in ("", "engine", "naive"):
        table.add_column(name, justify="left" if not name else "right")
    rows: dict[str, Callable[[Figures], str]] = {
        "trajectories/s": lambda way: f"{way.trajectories_per_second:,.2f}",
        "tokens/s": lambda way: f"{way.tokens_per_second:,.0f}",
        "scored tokens/s": lambda way: f"{way.scored_tokens_per_second:,.0f}",
        "padding": lambda way: f"{way.padding_share:.1%}",
        "peak above weights": lambda way: f"{way.peak_bytes_above_weights / 2**20:,.0f} MiB",
        "share of the matmul ceiling": lambda way: f"{way.share_of_matmul_ceiling:.1%}",
    }
    for title, show in rows.items():
        table.add_row(title, show(result.engine), show(result.naive))
    out.print(table)
    out.print(
        (
            f"engine over naive: {result.engine_over_naive:.2f} x; matmul ceiling "
            f"{result.matmul_ceiling_tflops:.3f} TFLOP/s"
        ),
        highlight=False,
    )
    for line in result.profile or []:
        out.print(f"  {line.share:6.1%}  {line.operation}", highlight=False)
    out.print(f"kept as {result.file}", highlight=False)
