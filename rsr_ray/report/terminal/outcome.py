"""A metric beside verdicts and lengths, and the teachers on right answers only."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsr_ray.decide.outcome import Outcome, TeacherOutcome
from rsr_ray.decide.ranking import Ranking
from rsr_ray.decide.within_prompts import WithinPrompts
from rsr_ray.errors import counted, safe
from rsr_ray.report.terminal.console import print_notes
from rsr_ray.report.terminal.formats import number, percent, prompts
from rsr_ray.report.terminal.ranking import place_range


def print_outcome(found: Outcome, ranking: Ranking, out: Console) -> None:
    """Beside the ranking of all answers: both correlations, and the ranking of right ones."""
    of_all = [sum(counts) for counts in zip(*map(_counts, found.teachers), strict=True)]
    out.print(
        Text(
            safe(f"According to {found.column}: {of_all[0]:,} answers are correct, ")
            + f"{of_all[1]:,} incorrect, {of_all[2]:,} without a verdict"
        )
    )
    out.print(
        Text(
            f"Within prompts (each value minus its prompt's mean): "
            f"correlation, with its {percent(ranking.confidence)} interval over prompts like these"
        )
    )
    for other, within in ((found.column, found.verdict), ("ln n_tokens", found.length)):
        out.print(Text(safe(f"  {ranking.metric} and {other}: {correlation_in_words(within)}")))
    if not found.right:
        out.print(Text(safe(f"No ranking on correct answers: {found.why_no_ranking}")))
        return
    right = found.right
    out.print(Text(safe(f"On correct answers only: {right.sentence}"), style="bold"))
    title = f"by {right.metric}, on {prompts(right.n_prompts, right.matched)} answered correctly"
    out.print(Text(title, style="dim"))
    out.print(_table(found, ranking))
    print_notes([note for note in right.notes if note not in ranking.notes], out)


def correlation_in_words(within: WithinPrompts) -> str:
    if within.correlation is None:
        return f"none, because {within.why_null}"
    answers = f"{within.n_trajectories:,} answers to {counted(within.n_prompts, 'prompt')}"
    told = f"of {answers}, both vary within {within.n_varying:,}"
    if within.low is None or within.high is None:
        return f"{within.correlation:+.2f}, no interval: {within.why_no_interval} ({told})"
    return f"{within.correlation:+.2f}, {within.low:+.2f} to {within.high:+.2f} ({told})"


def _counts(teacher: TeacherOutcome) -> tuple[int, int, int]:
    return teacher.n_right, teacher.n_wrong, teacher.n_unsaid


def _table(found: Outcome, ranking: Ranking) -> Table:
    """The teachers in the order of the ranking on right answers, those without one last."""
    sure = percent(ranking.confidence)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, show_edge=False)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("teacher", overflow="fold", min_width=12)
    names = (ranking.metric, f"{sure}\ninterval", f"{sure}\nplaces", "# of all\nanswers", "right")
    for name in names:
        table.add_column(name.replace("_", "_\n"), justify="right", no_wrap=True)
    of_all = {t.teacher: t.place for t in ranking.teachers}
    share = {t.teacher: t.share_right for t in found.teachers}
    ranked = found.right.teachers if found.right else []
    for t in ranked:
        between = f"{number(t.low)}..{number(t.high)}" if t.low is not None else "-"
        table.add_row(
            str(t.place),
            Text(safe(t.teacher)),
            number(t.value),
            between,
            place_range(t.first_place, t.last_place),
            str(of_all[t.teacher]),
            _share(share[t.teacher]),
        )
    for name in sorted(of_all.keys() - {t.teacher for t in ranked}, key=of_all.__getitem__):
        cells = [number(None)] * 3
        table.add_row("-", Text(safe(name)), *cells, str(of_all[name]), _share(share[name]))
    return table


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"
