"""A race, round by round, and its result."""

import math
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsr_ray.errors import counted, safe
from rsr_ray.report.terminal.formats import percent
from rsr_ray.schema import REJECT_REASONS

if TYPE_CHECKING:
    from rsr_ray.race.answer import Measured, RaceAnswer, Round


def race_line(decided: "Round") -> str:
    """A round of a race in one line."""
    leader = decided.leader
    n = len(decided.alive)
    first = (
        f"{leader.teacher} leads, {decided.by} {_interval(leader.measured)}"
        if leader
        else "no leader yet"
    )
    left = f"; dropped: {', '.join(decided.left)}" if decided.left else ""
    so_far = (
        f"{decided.prompts:,} of {decided.of_prompts:,} prompts, {decided.cost_share:.1%} of "
        f"the full cost"
    )
    return safe(f"round {decided.round}: {so_far}; {first}{left}; {counted(n, 'teacher')} left")


def _interval(measured: "Measured") -> str:
    return f"{measured.value:.3f} ({_ends(measured)})"


def _ends(measured: "Measured") -> str:
    """The interval; a value with every prompt tried has none: it is exact, of these prompts."""
    if measured.exact:
        return "exact"
    return "-" if measured.low is None else f"{measured.low:.3f} to {measured.high:.3f}"


def print_race(answer: "RaceAnswer", store_uri: str, out: Console) -> None:
    """The teachers of a race, best first; the winner, how sure that is, and what it cost."""
    out.print(Text(safe(_title(answer)), style="bold"), soft_wrap=True)
    out.print(_standings_table(answer))
    out.print(Text(safe(race_answer(answer)), style="bold"), soft_wrap=True)
    _print_cost(answer, out)
    _print_left_out(answer, out)
    own = f"{store_uri}/races/{answer.race_id}"
    out.print(Text(f"race      {own}/race.json"), soft_wrap=True)
    scored_some = answer.spent.trajectories > 0
    if not answer.decided or (scored_some and answer.taken_from_store.trajectories):
        return  # undecided, or no store holds all that was looked at
    store = own if scored_some else store_uri
    ranked = f"rsr-ray teachers --store {store} --student {answer.student}"
    out.print(
        Text(f"To rank teachers on prompts like these, not only on these: {ranked}"), soft_wrap=True
    )


def _title(answer: "RaceAnswer") -> str:
    title = (
        f"Race of teachers for student {answer.student}, by {answer.by} ({answer.better} is better)"
    )
    if answer.degenerate:
        title += f"; {answer.degenerate:,} degenerate left out (--keep-degenerate keeps them)"
    return title


def _standings_table(answer: "RaceAnswer") -> Table:
    by = answer.by
    better = answer.better
    share = percent(answer.confidence)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("teacher", overflow="fold", min_width=12)
    for name in (f"{by}\n{better}=better", f"{share}\ninterval", "prompts", "out after\nround"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    for t in answer.teachers:
        m = t.measured
        numbers = [f"{m.value:.3f}", _ends(m), f"{m.n_prompts:,}"] if m else ["-"] * 3
        why = t.why or ("winner" if t.teacher == answer.winner else "could still win")
        left_after = str(t.left_after_round or "-")
        table.add_row(Text(safe(t.teacher)), *numbers, left_after, Text(safe(why)))
    return table


def _print_cost(answer: "RaceAnswer", out: Console) -> None:
    """What the race had to score, and what it took from the store."""
    spent = answer.spent
    taken = answer.taken_from_store
    tokens = f"{spent.scored_tokens:,} tokens scored, {spent.prompt_tokens:,} of prompts"
    trajectories = f"{spent.trajectories:,} of {answer.full.trajectories:,} trajectories"
    share = f"{spent.cost_share:.1%} of scoring all {answer.matched_prompts:,} matched prompts"
    out.print(Text(f"cost      {share}: {trajectories}; {tokens}"))
    if taken.trajectories:
        share = (
            f"{taken.trajectories:,} trajectories already in the store, {taken.cost_share:.1%} of "
            "that cost"
        )
        out.print(Text(f"reused    {share}"))


def _print_left_out(answer: "RaceAnswer", out: Console) -> None:
    """The rows that could not race."""
    for reason, n in answer.rejected.items():
        why = f"{REJECT_REASONS[reason]} Their prompts are not compared."
        out.print(Text(f"  rejected {n:,} {reason}: {why}"), soft_wrap=True)
    if n := answer.unreadable_rows:
        what = "rows of the corpus have no readable conversation and did not race"
        out.print(Text(f"  {n:,} {what}"))


def race_answer(answer: "RaceAnswer") -> str:
    """What a race found out, in a sentence."""
    if not answer.decided:
        return f"Not decided: {answer.reason}. {_who_is_left(answer)}"
    sure = f" ({percent(answer.confidence)})"
    if answer.rounds[-1].prompts == answer.matched_prompts:
        return f"{answer.winner} is best on {_on_all_prompts(answer, sure)}: {answer.reason}"
    within = f", or within {answer.margin:.2%} of the best," if answer.margin else ""
    return (
        f"{answer.winner} is best{within} on these {answer.matched_prompts:,} prompts{sure}: "
        f"{answer.reason}"
    )


def _who_is_left(answer: "RaceAnswer") -> str:
    """Who could still win, and what one more round would cost."""
    n = len(answer.alive)
    left = (
        f"{counted(n, 'teacher')} could still win: {', '.join(answer.alive)}"
        if n
        else "No teacher is left"
    )
    more = answer.next_cost_share
    if not more:
        return left
    budget = math.ceil(more * 100) / 100
    return (
        f"{left}; the next round would raise the cost to {more:.1%}: rerun with --budget "
        f"{budget:g} or more to continue"
    )


def _on_all_prompts(answer: "RaceAnswer", sure: str) -> str:
    """Which prompts, if all were tried; `sure` only if a teacher left before the last round: what
    the last one says of those still in is exact.
    """
    last = answer.rounds[-1]
    compared = last.prompts_compared
    on = (
        f"the {compared:,} of {last.prompts:,} prompts with a score of every remaining teacher"
        if compared < last.prompts
        else f"these {last.prompts:,} prompts"
    )
    rounds = len(answer.rounds)
    some_left_early = any((t.left_after_round or math.inf) < rounds for t in answer.teachers)
    return f"{on}{sure if some_left_early else ''}"
