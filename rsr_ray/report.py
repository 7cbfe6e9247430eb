"""report: what a person reads of a run and of a store, in a terminal."""

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsr_ray.run import Run
from rsr_ray.schema import REJECT_REASONS


def console() -> Console:
    """A console as wide as the terminal, and wide enough for the table where the output is piped."""
    return Console() if Console().is_terminal else Console(width=120)


def print_teachers(teachers: pa.Table, student_name: str, out: Console) -> None:
    """The ranking: lowest rsr first, the length beside it."""
    title = Text(f"Teachers for student {student_name}, sorted by rsr (lower is better)")
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("#", justify="right")
    table.add_column("teacher", overflow="fold", min_width=12)
    for name in ("rsr\nlower=better", "mean\nrank", "nats a\ntoken", "tokens\neach", "scored", "rejec-\nted", "dupli-\ncates"):
        table.add_column(name, justify="right", no_wrap=True)
    for t in teachers.to_pylist():
        numbers = [f"{t[name]:.3f}" if t[name] is not None else "-" for name in ("rsr", "mean_rank", "mean_surprisal")]
        length = f"{t['mean_tokens']:,.0f}" if t["mean_tokens"] is not None else "-"
        counts = [f"{t[name]:,}" for name in ("n_trajectories", "n_rejected", "n_duplicates")]
        table.add_row(str(t["place"] or "-"), Text(t["teacher"]), *numbers, length, *counts)
    out.print(table)


def print_run(run: Run, store_uri: str, out: Console) -> None:
    """The row equation, the rejects by reason, and where the files are."""
    out.print(Text(run.equation))
    if run.splits:
        out.print(Text(f"  memory ran out {run.splits:,} times: batches were split and made smaller; --batch-tokens sets their size"))
    for reason, n in run.rejected.most_common():
        out.print(Text(f"  rejected {n:,} {reason}: {REJECT_REASONS[reason]}"))
        out.print(Text(f"    e.g. {run.examples[reason]}"), style="dim")
    out.print(Text(f"scores    {store_uri}/scores/student={run.config.student_name}/"), soft_wrap=True)
    out.print(Text(f"teachers  {store_uri}/teachers/student={run.config.student_name}.parquet"), soft_wrap=True)
    out.print(Text(f"run       {store_uri}/runs/{run.run_id}.json"), soft_wrap=True)
