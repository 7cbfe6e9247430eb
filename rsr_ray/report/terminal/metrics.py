"""The registry of metrics."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsr_ray.metrics import Metric


def print_metrics(metrics: list[Metric], out: Console) -> None:
    """The registry, a metric a row."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for name, more in (
        ("metric", {"no_wrap": True}),
        ("better", {}),
        ("formula", {"ratio": 1}),
        ("unit", {}),
        ("source", {}),
        ("published*", {}),
    ):
        table.add_column(name, **more)
    for m in metrics:
        table.add_row(
            m.name,
            m.better,
            m.formula,
            m.unit,
            m.source,
            "-" if m.published is None else f"{m.published:.3f}",
        )
    out.print(table)
    out.print(
        Text(
            "p, l = -ln p, r, H, q: probability, surprisal, rank, entropy, sum of squared "
            "probabilities at each of the T scored tokens."
        )
    )
    out.print(
        Text(
            "A teacher's rsr is mean(rank) / mean(surprisal) over its trajectories; for metrics "
            "that are means, it is their mean."
        )
    )
    out.print(
        Text(
            "* mean over 5 students of the absolute Spearman correlation with accuracy after "
            "training, 11 teachers (arXiv 2601.14249)"
        )
    )
