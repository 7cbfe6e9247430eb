"""The console that answers are printed to, and the notes under an answer."""

import os

from rich.console import Console
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


def print_notes(notes: list[str], out: Console) -> None:
    for note in notes:
        out.print(Text(safe(f"note: {note}"), style="yellow"))
