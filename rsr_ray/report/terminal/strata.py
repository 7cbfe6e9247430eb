"""Teachers within strata and over all of them, and how the orders differ."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsr_ray.decide.overall import Overall
from rsr_ray.decide.ranking import TeacherPlace
from rsr_ray.decide.strata_in_words import in_words
from rsr_ray.decide.strata_ranking import StrataRanking, StratumRanking
from rsr_ray.decide.wording import probability
from rsr_ray.errors import safe
from rsr_ray.report.terminal.console import print_notes
from rsr_ray.report.terminal.formats import coefficient, number, percent
from rsr_ray.report.terminal.ranking import place_range, ranked_table

VALUED = 8  # strata of which values are shown; of more only places
TOLD = 6  # changes of order, and notes of single strata, that are printed
NAME = 24  # columns of a teacher's name; more, up to a third of the width, for longer ones
VALUE, PLACE = 12, 3  # columns of a stratum, with the space in front
HEAD = 24  # at most, for the names of strata where there is room


def print_strata(found: StrataRanking, student_name: str, out: Console) -> None:
    """The two answers, the teachers over all strata and in each, how the orders differ."""
    out.print(Text(safe(found.sentence), style="bold"))
    if found.overall:
        out.print(Text(safe(found.overall.sentence), style="bold"))
        out.print(_overall_table(found.overall, found))
    _print_places(found, student_name, out)
    _print_tau(found, out)
    _print_changes(found, out)
    of_strata = [f"{s.stratum}: {note}" for s in found.strata for note in s.ranking.notes]
    more = len(of_strata) - TOLD
    of_strata = [*of_strata[:TOLD], *([f"{more:,} more of strata, in --json"] if more > 0 else [])]
    print_notes([*found.notes, *of_strata], out)


def _overall_table(overall: Overall, found: StrataRanking) -> Table:
    sure = percent(found.confidence)
    table = ranked_table(f"{found.metric}\n{found.better}=better", f"{sure}\ninterval")
    for name in (f"{sure}\nplaces", "P(best)"):
        table.add_column(name, justify="right", no_wrap=True)
    for t in overall.teachers:
        between = f"{number(t.low)}..{number(t.high)}" if t.low is not None else "-"
        table.add_row(
            f"{t.place}",
            Text(safe(t.teacher)),
            number(t.value),
            between,
            place_range(t.first_place, t.last_place),
            probability(t.p_best),
        )
    return table


def _print_places(found: StrataRanking, student_name: str, out: Console) -> None:
    """A table of teachers and strata, in as many parts as its width needs."""
    out.print(
        Text(
            safe(
                f"Teachers for student {student_name} by {found.metric} ({found.better} is "
                f"better) within {found.by}, on the prompts that a stratum's teachers all answered"
            ),
            style="dim",
        )
    )
    has_values = len(found.strata) <= VALUED
    name = max(NAME, min(out.width // 3, max(len(safe(teacher)) for teacher in found.teachers)))
    least, room = VALUE if has_values else PLACE, out.width - name
    numbered = list(enumerate(found.strata, 1))
    size = -(-len(numbered) // -(-len(numbered) // max(1, room // least)))
    longest = max(len(safe(stratum.stratum)) for stratum in found.strata) + 1
    width = max(least, min(HEAD, longest, room // size)) if has_values else least
    for start in range(0, len(numbered), size):
        part = numbered[start : start + size]
        out.print(_part_table(found, part, name, width))
    if not has_values:
        said = [f"{n} {s.stratum} ({_on_prompts(s)})" for n, s in numbered]
        out.print(Text(safe(f"strata: {', '.join(said)}")))
    about = (
        f"places, and which teachers may be best (*, bold), hold at {percent(found.confidence)} in "
        f"each stratum by itself, changes of order in all strata together"
    )
    out.print(Text(about, style="dim"))


def _part_table(
    found: StrataRanking, part: list[tuple[int, StratumRanking]], name: int, width: int
) -> Table:
    """Of some strata, in columns of a width; those of places alone are the narrow ones."""
    has_values = width >= VALUE
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("teacher", overflow="fold", width=name)
    for n, stratum in part:
        head = f"{safe(stratum.stratum)}\n{_on_prompts(stratum)}" if has_values else f"{n}"
        table.add_column(Text(head), justify="right", overflow="fold", width=width - 1)
    of_strata = [{t.teacher: t for t in stratum.ranking.teachers} for _, stratum in part]
    for teacher in found.teachers:
        cells = [
            _cell(of_teacher.get(teacher), stratum, has_values=has_values)
            for of_teacher, (_, stratum) in zip(of_strata, part, strict=True)
        ]
        table.add_row(Text(safe(teacher)), *cells)
    return table


def _on_prompts(stratum: StratumRanking) -> str:
    n = stratum.ranking.n_prompts
    return f"{n:,} prompt{'s' if n != 1 else ''}"


def _cell(t: TeacherPlace | None, stratum: StratumRanking, *, has_values: bool) -> Text:
    """A teacher in a stratum: its place, and where there is room its value and a * if it may be
    the best.
    """
    if t is None:
        return Text("· " if has_values else "·", style="dim")
    may_be_best = t.teacher in stratum.ranking.best
    style = "bold" if may_be_best else ""
    if not has_values:
        return Text(f"{t.place}", style=style)
    return Text(f"{number(t.value)} {f'#{t.place}':>3}{'*' if may_be_best else ' '}", style=style)


def _print_tau(found: StrataRanking, out: Console) -> None:
    """How alike the orders of each two strata are."""
    n = len(found.strata)
    known = [
        (tau, i, j)
        for i, row in enumerate(found.tau_b)
        for j, tau in enumerate(row)
        if i < j and tau is not None
    ]
    if not known:
        return
    if n == 2:
        out.print(Text(f"Kendall's tau-b between the two orders: {coefficient(known[0][0], 2)}"))
        return
    if n > VALUED:
        (least, i, j), (most, *_) = min(known), max(known)
        pair = f"{found.strata[i].stratum} and {found.strata[j].stratum}"
        between = f"{coefficient(least, 2)} ({pair}) to {coefficient(most, 2)}"
        said = f"Kendall's tau-b between the orders of two strata: {between}; all in --json"
        out.print(Text(safe(said)))
        return
    out.print(Text("Kendall's tau-b between the orders of two strata:"))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, show_edge=False)
    table.add_column("", overflow="fold", max_width=NAME)
    for stratum in found.strata[1:]:
        table.add_column(Text(safe(stratum.stratum)), justify="right", overflow="fold")
    for i, stratum in enumerate(found.strata[:-1]):
        cells = [coefficient(found.tau_b[i][j], 2) if j > i else "" for j in range(1, n)]
        table.add_row(Text(safe(stratum.stratum)), *cells)
    out.print(table)


def _print_changes(found: StrataRanking, out: Console) -> None:
    """The pairs that change order by more than noise."""
    sure = [change for change in found.changes if change.more_than_noise]
    for change in sure[:TOLD]:
        out.print(Text(safe(f"{in_words(change)}, by more than noise")))
    others = len(found.changes) - len(sure)
    more = [
        *([f"{len(sure) - TOLD:,} more by more than noise"] if len(sure) > TOLD else []),
        *([f"{others:,} that may be noise"] if others else []),
    ]
    if more:
        out.print(Text(f"Pairs that change order: {', '.join(more)}; all in --json"))
