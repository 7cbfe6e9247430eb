"""The correlations that the paper prints, beside those of its own table."""

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsr_ray.errors import safe
from rsr_ray.report.terminal.formats import coefficient

if TYPE_CHECKING:
    from rsr_ray.decide.paper import BestReading, PaperComparison, PaperRow, RsrOfStudent

WHY = "why printed differs"  # a column


def print_paper(paper: "PaperComparison", out: Console) -> None:
    """What the second accuracy of a cell changes, and what explains the values that are printed."""
    twice = (
        f"accuracy {paper.accuracy} in two tables of arXiv 2601.14249, "
        f"{paper.second_accuracy} in two others"
    )
    title = f"Student {paper.student}, teacher {paper.teacher}: {twice}"
    out.print()
    out.print(Text(title, style="bold"), soft_wrap=True)
    out.print(_table(paper))
    if paper.rsr_of_students:
        _print_rsr(paper.rsr_of_students, out)
    if paper.best:
        second = paper.second_accuracy if paper.best.takes_second else paper.accuracy
        _print_best(paper.best, f"with {second}", out)


def _table(paper: "PaperComparison") -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    names = ["metric", "|mean|", f"with {paper.second_accuracy}"]
    if paper.best:
        names += ["reading\nbelow", "printed", WHY]
    for name in names:
        is_text = name in ("metric", WHY)
        table.add_column(name, justify="left" if is_text else "right", overflow="fold")
    for row in paper.rows:
        table.add_row(*_cells(row)[: len(names)])
    return table


def _cells(row: "PaperRow") -> list[str | Text]:
    return [
        Text(safe(row.metric)),
        coefficient(row.here),
        coefficient(row.with_second),
        coefficient(row.best_order),
        coefficient(row.printed),
        row.reason or "-",
    ]


def _print_rsr(of_students: dict[str, "RsrOfStudent"], out: Console) -> None:
    """Each student's |Spearman| of rsr, a line for each way to read it."""
    each = of_students.values()
    out.print(Text(f"rsr of {', '.join(of_students)}:"), soft_wrap=True)
    for values, what in (
        ([of.printed for of in each], "printed"),
        ([of.here for of in each], "from the table"),
        ([of.best_order for of in each], "reading below"),
    ):
        out.print(Text(f"  {' '.join(coefficient(abs(value)) for value in values)}  {what}"))


def _print_best(best: "BestReading", which: str, out: Console) -> None:
    """How much the best reading explains, and its order of each tie."""
    n_others = best.n_as_good
    also = f"{n_others} others do as well" if n_others else "no other does as well"
    out.print(
        Text(
            f"Of {best.n_tried} readings and orders of tied accuracies, one, {which}, reproduces "
            f"{best.n_reproduced} of the {best.n_printed} values that the paper prints (the mean "
            f"of each metric, and rsr for each student); {also}:"
        ),
        soft_wrap=True,
    )
    for tie in best.ties:
        line = f"  {tie.student}, {tie.accuracy}: {' above '.join(tie.order)}"
        out.print(Text(safe(line)), soft_wrap=True)
