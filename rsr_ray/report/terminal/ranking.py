"""A ranking of teachers, how sure it is, and what lies behind it."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsr_ray.decide.ranking import LengthControl, OnAllPrompts, Ranking, TeacherPlace
from rsr_ray.decide.wording import probability
from rsr_ray.errors import safe
from rsr_ray.report.terminal.console import NARROW, print_notes
from rsr_ray.report.terminal.formats import number, percent, prompts
from rsr_ray.store.teacher_rows import TeacherRow

COUNTS = {
    "n_duplicates": "Duplicate rows (each trajectory counts once)",
    "n_repeated_ids": "Trajectories that share an id but not the content (all count)",
    "n_truncated": "Trajectories truncated to the length limit",
}
WHISKER = 16  # characters of an interval's picture
PAIRED = 12  # teachers of which the probability of each pairwise order is printed


def print_ranking(
    ranking: Ranking, table: list[TeacherRow], student_name: str, out: Console
) -> None:
    """The sentence, the teachers with their intervals and places, each pairwise order, lengths.

    `table` has the TEACHERS rows of the store.
    """
    out.print(Text(safe(ranking.sentence), style="bold"))
    title = (
        f"Teachers for student {student_name} by {ranking.metric} ({ranking.better} is "
        f"better), on {prompts(ranking.n_prompts, ranking.matched)}"
    )
    out.print(Text(title, style="dim"))
    out.print(_places_table(ranking, is_wide=out.width >= NARROW))
    if ranking.best:
        out.print(Text(about_places(ranking.confidence), style="dim"))
    out.print(Text("All prompts per teacher, and the spread over individual trajectories:"))
    out.print(_spreads_table(ranking, table, is_wide=out.width >= NARROW))
    _print_counts(table, out)
    print_notes(ranking.notes, out)
    _print_pairwise(ranking, out)
    _print_length(ranking.metric, ranking.length, out)
    _print_degeneration(ranking, out)


def _places_table(ranking: Ranking, *, is_wide: bool) -> Table:
    """The teachers with their values, intervals and places."""
    sure = percent(ranking.confidence)
    shown = ranked_table(
        f"{_broken(ranking.metric)}\n{ranking.better}\n=better", f"{sure}\ninterval"
    )
    if is_wide:
        shown.add_column("", no_wrap=True)
    for name in (f"{sure}\nplaces", "P(best)", "prompts\nwon"):
        shown.add_column(name, justify="right", no_wrap=True)
    ends = [v for t in ranking.teachers for v in (t.low, t.high, t.value) if v is not None]
    for t in ranking.teachers:
        shown.add_row(
            str(t.place),
            Text(safe(t.teacher)),
            number(t.value),
            _between(t),
            *([_whisker(t, min(ends), max(ends))] if is_wide else []),
            place_range(t.first_place, t.last_place),
            probability(t.p_best),
            f"{t.won:.0%}" if t.won is not None else "-",
        )
    return shown


def place_range(first: int | None, last: int | None) -> str:
    """The places that a teacher may have."""
    if first is None:
        return "-"
    return f"{first}" if first == last else f"{first}-{last}"


def about_places(confidence: float) -> str:
    """What the places and P(best) of a ranking are."""
    return (
        "places: positions a teacher may hold on prompts like these, valid for all teachers at "
        f"once with {percent(confidence)} confidence; P(best): probability of being the best "
        "there, shrunk because chance favors the teacher that looks best"
    )


def ranked_table(*numbers: str) -> Table:
    """A table of teachers and their places, and columns of numbers."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, show_edge=False)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("teacher", overflow="fold", min_width=12)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _spreads_table(ranking: Ranking, table: list[TeacherRow], *, is_wide: bool) -> Table:
    """Of each teacher its value on all its prompts, and how its trajectories lie."""
    has_std = is_wide or not ranking.degeneration
    shown = ranked_table(
        "all its\nprompts",
        *(["interval", "mean"] if is_wide else []),
        "median",
        "IQR",
        *(["std"] if has_std else []),
        "tokens\neach",
        "scored",
        "rejec-\nted",
        *(["degen-\nerate", "cut\noff"] if ranking.degeneration else []),
    )
    rejected = {row.teacher: row.n_rejected for row in table}
    for t in ranking.teachers:
        quartiles_apart = t.q75 - t.q25 if t.q25 is not None and t.q75 is not None else None
        shown.add_row(
            str(t.place),
            Text(safe(t.teacher)),
            number(t.all.value),
            *([_between(t.all), number(t.mean)] if is_wide else []),
            number(t.median),
            number(quartiles_apart),
            *([number(t.std)] if has_std else []),
            f"{t.mean_tokens:,.0f}",
            f"{t.n_trajectories:,}",
            f"{rejected.get(t.teacher, 0):,}",
            *([share_of(t.degenerate), share_of(t.cut_off)] if ranking.degeneration else []),
        )
    return shown


def share_of(share: float | None) -> str:
    """Of a teacher's trajectories."""
    return "-" if share is None else f"{share:.1%}"


def _print_counts(table: list[TeacherRow], out: Console) -> None:
    """Of the teachers what was not ranked, counted once or cut."""
    print_notes(list(filter(None, [unscored(table)])), out)
    for column, what in COUNTS.items():
        counts = {t.teacher: getattr(t, column) for t in table}
        if some := [f"{safe(name)} {n:,}" for name, n in counts.items() if n]:
            out.print(Text(f"{what}: {', '.join(some)}"))
    shares = {t.teacher: incomplete_share(t) for t in table}
    if some := [f"{safe(name)} {share:.1%}" for name, share in shares.items() if share]:
        out.print(Text(f"Answers that the corpus marks as cut off: {', '.join(some)}"))


def incomplete_share(t: TeacherRow) -> float | None:
    """Of a teacher's trajectories of which the corpus says whether they are complete, those that
    are not; None where it says nothing.
    """
    n_incomplete = t.n_incomplete or 0
    said = (t.n_complete or 0) + n_incomplete
    return n_incomplete / said if said else None


def unscored(table: list[TeacherRow]) -> str | None:
    """Which teachers of a store no ranking can have, and why."""
    names = [
        f"{t.teacher} ({t.n_rejected:,} rejected: {', '.join(t.rejects)})"
        for t in table
        if not t.n_trajectories
    ]
    if not names:
        return None
    more = f" and {len(names) - 20:,} more" if len(names) > 20 else ""
    return f"not ranked, because none of their rows was scored: {', '.join(names[:20])}{more}"


def _print_pairwise(ranking: Ranking, out: Console) -> None:
    """The probability of each pairwise order, above the diagonal."""
    if not ranking.pairwise:
        return
    if len(ranking.pairwise) > PAIRED:
        out.print(Text("The probability of each pairwise order is in --json."))
        return
    out.print(
        Text(
            "Probability that the row's teacher is better than the column's on prompts like these:"
        )
    )
    matrix = Table(box=box.SIMPLE_HEAD, show_edge=False)
    matrix.add_column("", justify="right")
    for t in ranking.teachers[1:]:
        matrix.add_column(f"#{t.place}", justify="right")
    for i, row in enumerate(ranking.pairwise[:-1]):
        shown = [_short(p) if j > i else "" for j, p in enumerate(row) if j]
        matrix.add_row(f"#{i + 1}", *shown)
    out.print(matrix)


def _short(p: float | None) -> str:
    """A probability without its nought, for narrow columns."""
    return probability(p).replace("0.", ".").replace(" ", "")


def _print_length(metric: str, length: LengthControl, out: Console) -> None:
    if length.spearman is None:
        return
    within = (
        f", {length.within_teachers:+.2f} within teachers"
        if length.within_teachers is not None
        else ""
    )
    overall = f"Spearman of {metric} and n_tokens {length.spearman:+.2f} overall"
    out.print(Text(f"Length bias: {overall}{within}"))


def _print_degeneration(ranking: Ranking, out: Console) -> None:
    """The guard's correlation with the metric, and the ranking without degenerate trajectories."""
    found = ranking.degeneration
    if found is None:
        return
    told = [f"{name} {r:+.2f}" for name, r in found.within_teachers.items() if r is not None]
    if told:
        what = f"Degeneration: Spearman within teachers of {ranking.metric} and {', '.join(told)}"
        out.print(Text(what))
    if found.without:
        shared = prompts(found.without.n_prompts, found.without.matched)
        left_out = f" and without {', '.join(found.left_out)}" if found.left_out else ""
        out.print(Text(safe(f"Without degenerate trajectories{left_out}, on {shared}:")))
        out.print(_places_table(found.without, is_wide=out.width >= NARROW))


def _between(t: TeacherPlace | OnAllPrompts) -> str:
    return f"{number(t.low)}..{number(t.high)}" if t.low is not None else "-"


def _broken(name: str) -> str:
    """A metric's name over several lines, for the head of a narrow column."""
    return name.replace("_", "_\n")


def _whisker(t: TeacherPlace, least: float, most: float) -> Text:
    """A teacher's interval and value on a line of characters, from the least to the most of all
    teachers; without a value, nothing.
    """
    if most <= least:
        return Text("●")
    if t.value is None:
        return Text("")
    low = t.low if t.low is not None else t.value
    high = t.high if t.high is not None else t.value
    start, at, stop = (
        round((v - least) / (most - least) * (WHISKER - 1)) for v in (low, t.value, high)
    )
    line = [" "] * WHISKER
    line[start : stop + 1] = "─" * (stop - start + 1)
    line[at] = "●"
    return Text("".join(line), style="cyan")
