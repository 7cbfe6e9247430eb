"""The figures of a benchmark, as they are kept and as they are printed."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rsr_ray.bench.student import Shape


@dataclass(frozen=True)
class Operation:
    """An operation of the engine, and its share of the time."""

    operation: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Those of a way to score, by the median of its rounds."""

    seconds: float
    trajectories_per_second: float
    tokens_per_second: float
    scored_tokens_per_second: float
    padding_share: float
    peak_bytes_above_weights: int
    share_of_matmul_ceiling: float


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What was measured, of what and on which machine."""

    date: str
    device: str
    shape: Shape
    parameters: int
    rounds: int
    tokens: int
    scored_tokens: int
    matmul_ceiling_tflops: float
    necessary_tflop: float
    engine_over_naive: float  # median over rounds
    largest_relative_difference_of_surprisal: float
    rank_sums_that_differ: int
    engine: Figures
    naive: Figures
    profile: list[Operation] | None = None  # of the engine, on a CPU
    file: str | None = None  # where it is kept

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


def print_bench(result: Benchmark) -> None:
    """The figures as a terminal table."""
    from rich.table import Table  # a machine that only measures need not have it

    from rsr_ray.report.terminal.console import console

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
    out.print(f"saved to {result.file}", highlight=False)
