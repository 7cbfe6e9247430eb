"""report: what a person reads of a run and of a store, in a terminal."""

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsr_ray.run import Run
from rsr_ray.schema import REJECT_REASONS


def print_teachers(teachers: pa.Table, student_name: str, console: Console) -> None:
    """The ranking: lowest rsr first, the length beside it."""
    table = Table(title=f"Teachers for student {student_name}, by rsr: lower is better", title_justify="left")
    for name in ("place", "teacher", "rsr (lower is better)", "mean rank", "mean surprisal", "tokens each", "scored", "rejected", "twice"):
        table.add_column(name, justify="left" if name == "teacher" else "right", overflow="fold")
    for t in teachers.to_pylist():
        numbers = [f"{t[name]:.3f}" if t[name] is not None else "-" for name in ("rsr", "mean_rank", "mean_surprisal")]
        length = f"{t['mean_tokens']:,.0f}" if t["mean_tokens"] is not None else "-"
        counts = [f"{t[name]:,}" for name in ("n_trajectories", "n_rejected", "n_duplicates")]
        table.add_row(str(t["place"] or "-"), Text(t["teacher"]), *numbers, length, *counts)
    console.print(table)


def print_run(run: Run, store_uri: str, console: Console) -> None:
    """The row equation, the rejects by reason, and where the files are."""
    console.print(Text(run.equation))
    for reason, n in run.rejected.most_common():
        console.print(Text(f"  rejected {n:,} {reason}: {REJECT_REASONS[reason]}"))
        console.print(Text(f"    e.g. {run.examples[reason]}"), style="dim")
    console.print(Text(f"scores    {store_uri}/scores/student={run.config.student_name}/"), soft_wrap=True)
    console.print(Text(f"teachers  {store_uri}/teachers/student={run.config.student_name}.parquet"), soft_wrap=True)
    console.print(Text(f"run       {store_uri}/runs/{run.run_id}.json"), soft_wrap=True)
