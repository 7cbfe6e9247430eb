"""Local beside global naturalness of each teacher, and whether they are two things."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsr_ray.decide.naturalness import Naturalness
from rsr_ray.errors import safe
from rsr_ray.report.terminal.console import print_notes
from rsr_ray.report.terminal.formats import number, prompts


def print_naturalness(found: Naturalness, out: Console) -> None:
    if found.teachers:
        title = (
            f"Local and global naturalness, nats per token (higher is better), on "
            f"{prompts(found.n_prompts, found.matched)}"
        )
        out.print(Text(title, style="bold"))
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
        table.add_column("teacher", overflow="fold", min_width=12)
        for name in ("local", "global"):
            table.add_column(name, justify="right", no_wrap=True)
        for t in found.teachers:
            table.add_row(Text(safe(t.teacher)), number(t.local), number(t.global_))
        out.print(table)
    print_notes(found.notes, out)
