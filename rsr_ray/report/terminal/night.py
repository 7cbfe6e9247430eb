"""A night: each student's ranking, and what changed."""

from typing import Any

from rich.console import Console
from rich.text import Text

from rsr_ray.decide.changes import Changes, Newcomer
from rsr_ray.decide.ranking import Ranking
from rsr_ray.errors import safe
from rsr_ray.report.terminal.ranking import print_ranking
from rsr_ray.report.terminal.teachers import print_teachers
from rsr_ray.schema import REJECT_REASONS
from rsr_ray.store.nights import StudentNight


def print_night(night: dict[str, Any], store_uri: str, out: Console) -> None:
    """Of each student the ranking and what changed since the last night, or the error that
    stopped it.
    """
    if held := night.get("held_by"):
        ago = f", lease renewed {held['age']:.0f} s ago"
        out.print(
            Text(
                f"Another nightly run is working on {store_uri} "
                f"({held.get('holder', 'starting')}{ago}); this one exits. Pass --wait SECONDS "
                "to wait for it."
            )
        )
        return
    for name, student in night["students"].items():
        if "teachers" in student:
            _print_results(student, name, night["night"], out)
        if student["error"]:
            said = safe(f"student {name}: {student['error']}")
            out.print(Text(said, style="bold red"), soft_wrap=True)
        out.print()
    if "report" in night:
        out.print(Text(f"report    {night['report']}"), soft_wrap=True)
    out.print(Text(f"night     {store_uri}/nightly/{night['night']}.json"), soft_wrap=True)


def _print_results(student: StudentNight, name: str, night: str, out: Console) -> None:
    ranking = student.get("ranking")
    if ranking:
        print_ranking(Ranking.from_json(ranking), student["teachers"], name, out)
    else:
        print_teachers(student["teachers"], name, out)
    for line in changes_in_words(student, night):
        out.print(Text(safe(line)), soft_wrap=True)


def changes_in_words(student: StudentNight, night: str) -> list[str]:
    """What changed for a student, a line each."""
    equation, changes, since = student["equation"], student["changes"], student["since"]
    scored = (
        f"night {night}: {equation['scored']:,} scored, {sum(equation['rejected'].values()):,} "
        f"rejected, {equation['already_scored']:,} already scored"
    )
    if changes is not None:
        lines = _change_lines(Changes.from_json(changes))
        return [f"{scored}; since night {since}:", *(lines or ["  nothing changed"])]
    if not since:
        return [scored, "first night of this student; no earlier night to compare with"]
    return [
        scored,
        f"not compared with night {since}: its settings or weights were different",
    ]


def _change_lines(changes: Changes) -> list[str]:
    lines = [_newcomer_line(new) for new in changes.new_teachers]
    lines += [f"  {m.teacher} moved from place {m.was} to {m.now}" for m in changes.moved]
    if changes.unsure:
        moves = ", ".join(f"{m.teacher} {m.was} -> {m.now}" for m in changes.unsure)
        lines.append(f"  place changes that may be noise: {moves}")
    lines += [f"  teacher {name} is gone" for name in changes.gone_teachers]
    if grown := changes.new_trajectories:
        more = ", ".join(f"{name} {n:+,}" for name, n in grown.items())
        lines.append(f"  {sum(grown.values()):+,} trajectories: {more}")
    for reason, n in changes.new_rejects.items():
        lines.append(f"  {n:+,} rejected as {reason}: {REJECT_REASONS[reason]}")
    return lines


def _newcomer_line(new: Newcomer) -> str:
    if not new.place:
        return f"  new teacher {new.teacher} has no scored trajectories"
    return (
        f"  new teacher {new.teacher} takes place {new.place} of {new.of} "
        f"(rsr {new.rsr:.3f}, lower is better)"
    )
