"""How metrics correlate with the accuracy after training."""

import math
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsr_ray.errors import counted, safe
from rsr_ray.report.terminal.console import titled_table
from rsr_ray.report.terminal.formats import coefficient

if TYPE_CHECKING:
    from rsr_ray.decide.correlation import Correlations, MetricCorrelation
    from rsr_ray.decide.pair import Coefficients

MOST_STUDENTS = 5  # that have a column each: more do not fit
MOST_TIED = 8  # that are named
WRONG_SIGN = {"lower": 1, "higher": -1}  # of a correlation with accuracy, by the better direction


def print_correlations(found: "Correlations", out: Console) -> None:
    """Every metric, the highest correlation first, and what a reader has to know of them."""
    students = list(found.students)
    shown = students if len(students) <= MOST_STUDENTS else []
    table = _table(found, shown)
    for metric in found.metrics:
        table.add_row(*_cells(metric, shown))
    out.print(table)
    for line in _lines(found):
        out.print(Text(safe(line)), soft_wrap=True)


def _table(found: "Correlations", shown: list[str]) -> Table:
    """Its columns: a metric, each student shown, and over students."""
    counts = f"{counted(len(found.students), 'student')}, {found.teachers:,} teachers"
    table = titled_table(
        f"Spearman correlation of metrics with accuracy after training: {counts}", (0, 0, 0, 1)
    )
    table.add_column("metric", overflow="fold", min_width=20)
    table.add_column("bet-\nter")
    for name in shown:
        header = Text("-\n".join(safe(name).split("-")))
        table.add_column(header, justify="right", overflow="fold", min_width=5)
    for name in ("mean", "|mean|", "95%\ninterval", "p", "Pear-\nson", "Ken-\ndall", "paper"):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _cells(metric: "MetricCorrelation", shown: list[str]) -> list[str | Text]:
    over = metric.over_students
    return [
        Text(safe(metric.metric)),
        metric.better,
        *(_spearman(metric.students[name].coefficients) for name in shown),
        _spearman(over.mean if over else None),
        coefficient(over.abs_of_mean if over else None),
        " ".join(coefficient(end, 2) for end in metric.interval.ends or [None]),
        _p(over.p if over else None),
        coefficient(over.mean.pearson if over else None),
        coefficient(over.mean.kendall if over else None),
        coefficient(metric.published),
    ]


def _spearman(coefficients: "Coefficients | None") -> str:
    return coefficient(coefficients.spearman if coefficients else None)


def _p(p: float | None) -> str:
    """Four digits, or the order of magnitude if these would all be 0."""
    return f"{p:.0e}" if p and p <= 0.00005 else coefficient(p, 4)


def _lines(found: "Correlations") -> list[str]:
    """What a reader has to know of the table, a line each."""
    return [
        *_how(found),
        _tied(found),
        *_wrong_signs(found),
        *_undefined(found),
        *_without_interval(found),
        *found.notes,
        *(f"left out: {what}" for what in found.left_out),
    ]


def _how(found: "Correlations") -> list[str]:
    """What the columns are, and of how many teachers."""
    n_teachers = [counts.teachers for counts in found.students.values()]
    least = min(n_teachers)
    most = max(n_teachers)
    n = f"{least}" if least == most else f"{least} to {most}"
    every = math.factorial(found.teachers)
    orders = f"all {every:,}" if every <= found.permutations else f"{found.permutations:,}"
    methods = {metric.interval.method for metric in found.metrics}
    named = ", ".join(sorted(method for method in methods if method))
    lines = [
        "mean: the mean of the students' signed correlations; |mean|: its absolute value, as "
        "published; Pearson and Kendall: the same mean of these coefficients",
        f"p: for |mean|, from {orders} permutations of the teachers, the same for every student",
        f"95% interval: for mean, from {found.draws:,} bootstrap draws of teachers, the same for "
        f"every student ({named or 'none'}); it is wide, because a student has n = {n} teachers",
        "p and interval answer: would other teachers agree?",
    ]
    if any(metric.published for metric in found.metrics):
        lines.append(
            "paper: |mean| as arXiv 2601.14249 prints it for its own 5 students and 11 teachers"
        )
    if len(found.students) > MOST_STUDENTS:
        lines.append("each student's correlations are in --json")
    return lines


def _tied(found: "Correlations") -> str:
    tied = [
        f"{counts.tied_accuracies} accuracies of {name}"
        for name, counts in found.students.items()
        if counts.tied_accuracies
    ]
    tied += [
        f"{of.tied} of {metric.metric} of {name}"
        for metric in found.metrics
        for name, of in metric.students.items()
        if of.tied
    ]
    if not tied:
        return "tied values: none"
    n_more = len(tied) - MOST_TIED
    more = f" and {n_more} more, see --json" if n_more > 0 else ""
    named = ", ".join(tied[:MOST_TIED])
    return f"tied values: {named}{more}; ties share their average rank, Kendall is tau-b"


def _wrong_signs(found: "Correlations") -> list[str]:
    return [
        f"wrong sign: {metric.metric} should be {metric.better} for better teachers, but in this "
        f"table it is not (p = {over.p:.2g})"
        for metric in found.metrics
        if (over := metric.over_students)
        and over.mean.spearman * WRONG_SIGN.get(metric.better, 0) > 0
    ]


def _undefined(found: "Correlations") -> list[str]:
    """The correlations that are not defined: a line for each metric and reason."""
    students: dict[tuple[str, str], list[str]] = {}
    for metric in found.metrics:
        for name, of in metric.students.items():
            if of.why_null:
                students.setdefault((metric.metric, of.why_null), []).append(name)
    return [
        f"no correlation of {metric} for {', '.join(names)}: {why}"
        for (metric, why), names in students.items()
    ]


def _without_interval(found: "Correlations") -> list[str]:
    """A line for each reason."""
    metrics: dict[str, list[str]] = {}
    for metric in found.metrics:
        if why := metric.interval.why_none:
            metrics.setdefault(why, []).append(metric.metric)
    return [f"no interval for {', '.join(names)}: {why}" for why, names in metrics.items()]
