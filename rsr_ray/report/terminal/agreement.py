"""Whether other prompts of the same teachers would give the known order."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsr_ray.decide.agreement import MetricAgreement, PromptAgreement, StudentAgreement
from rsr_ray.decide.wording import probability
from rsr_ray.errors import counted, safe
from rsr_ray.report.terminal.formats import coefficient, percent

NAMED = 12  # teachers whose known order is written out


def print_agreement(found: PromptAgreement, out: Console) -> None:
    """A table for each student, the metric with the most pairs right first."""
    out.print()
    title = "Would other prompts of these teachers give the order of their accuracies?"
    out.print(Text(title, style="bold"))
    for student in found.students:
        _print_student(student, percent(found.confidence), out)
    for line in (
        f"drawn: means over {found.draws:,} bootstrap draws of prompts, with the teachers fixed: "
        "would other prompts of these teachers give the same order?",
        "tau-b: Kendall's tau-b with the known order (1 = identical); the order of teachers with "
        "equal accuracy is ignored",
        "P(first right): share of draws in which the first teacher is the known best (or one of "
        "them, if tied); if the first two are close, a share near 1 is too confident",
    ):
        out.print(Text(line), soft_wrap=True)


def _print_student(student: StudentAgreement, sure: str, out: Console) -> None:
    out.print(Text(safe(f"student {student.student}: {_known_order(student)}")), soft_wrap=True)
    defined = [of for of in student.metrics if of.drawn]
    if defined:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), show_edge=False)
        table.add_column("metric", overflow="fold", min_width=20)
        for name in (
            "seen\ntau-b",
            "pairs\nright",
            "first\nright",
            "drawn\ntau-b",
            f"{sure}\ninterval",
            "pairs\nright",
            f"{sure}\ninterval",
            "P(first\nright)",
        ):
            table.add_column(name, justify="right", no_wrap=True)
        for of in defined:
            table.add_row(*_cells(of, student.n_pairs))
        out.print(table)
    metrics: dict[str, list[str]] = {}
    for of in student.metrics:
        if of.why_null:
            metrics.setdefault(of.why_null, []).append(of.metric)
    for why, names in metrics.items():
        out.print(Text(safe(f"no agreement of {', '.join(names)}: {why}")), soft_wrap=True)


def _known_order(student: StudentAgreement) -> str:
    """The prompts, and the groups of teachers, the best first."""
    n_teachers = sum(map(len, student.groups))
    names = " > ".join(" = ".join(group) for group in student.groups)
    order = f": {names}" if n_teachers <= NAMED else ""
    known = f"{counted(student.n_pairs, 'pair')} of {n_teachers:,} teachers in a known order{order}"
    return f"{counted(student.n_prompts, 'shared prompt')}, {known}"


def _cells(of: MetricAgreement, n_pairs: int) -> list[str | Text]:
    assert of.seen
    assert of.drawn
    n_right = of.seen.pairs_right * n_pairs
    return [
        Text(safe(of.metric)),
        coefficient(of.seen.tau_b, 2),
        f"{n_right:g} of {n_pairs:,}",
        {0.0: "no", 1.0: "yes"}.get(of.seen.first_right, "tie"),
        coefficient(of.drawn.tau_b, 2),
        " ".join(coefficient(end, 2) for end in of.tau_b_interval or (None,)),
        _share(of.drawn.pairs_right),
        " ".join(map(_share, of.pairs_right_interval or ())),
        probability(of.drawn.first_right),
    ]


def _share(share: float) -> str:
    """As sure as draws are, which never show that a pair is always right."""
    return ">99%" if share > 0.99 else "<1%" if share < 0.01 else f"{share:.0%}"
