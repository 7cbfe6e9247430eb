"""The console that answers are printed to, a table with a title, the notes under an answer."""

import os

from rich import box
from rich.console import Console
from rich.padding import PaddingDimensions
from rich.table import Table
from rich.text import Text

from rsr_ray.errors import safe

NARROW = 110  # columns of a terminal below which tables have fewer


class _Output(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command line, which knows that a reader may leave; rich would exit
        with 1.
        """
        raise BrokenPipeError


def console() -> Console:
    """A console as wide as the terminal; where the output is piped, as COLUMNS says, or wide
    enough for the tables.
    """
    return _Output() if _Output().is_terminal or os.environ.get("COLUMNS") else _Output(width=120)


def titled_table(title: str, padding: PaddingDimensions = (0, 1)) -> Table:
    """A table without columns yet; `padding` of its cells as rich has it."""
    return Table(
        title=Text(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=padding,
        show_edge=False,
    )


def print_notes(notes: list[str], out: Console) -> None:
    for note in notes:
        out.print(Text(safe(f"note: {note}"), style="yellow"))
