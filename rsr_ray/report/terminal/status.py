"""The status of a store."""

from rich.console import Console
from rich.text import Text

from rsr_ray.errors import counted, safe
from rsr_ray.run.display import duration, size
from rsr_ray.store.figures import NightFigures, RunFigures
from rsr_ray.store.status import Generation, StoreStatus, StudentStatus, Working


def print_status(status: StoreStatus, out: Console) -> None:
    """What is in the store, what is running, the last night, and each student."""
    kept = f"{counted(status.files, 'file')}, {size(status.bytes)}"
    done = f"{counted(status.runs, 'run')}, {counted(status.nights, 'night')}"
    lines = [f"store     {status.store}: {kept}; {done}"]
    lines += [f"running   {_working(one)}" for one in status.working] or ["running   nothing"]
    if status.night:
        lines.append(f"night     {_night(status.night)}")
    for student in status.students:
        lines += ["", *_student(student)]
    for line in lines:
        out.print(Text(safe(line)), soft_wrap=True)


def _working(one: Working) -> str:
    what = f"run of student {one.student}" if one.what == "run" else "nightly run"
    since = f" since {_time(one.since)}" if one.since else ""
    seen = f"last seen {duration(one.seen)} ago"
    said = f"{what} by {one.holder or 'an unknown process'}{since}, {seen}"
    return said if one.alive else f"{said}: it probably died; the next run takes over"


def _night(night: NightFigures) -> str:
    said = f"{night.night} {_ended(night)}, took {duration(night.seconds)}"
    return said if night.error is None else f"{said}: {night.error}"


def _ended(of: RunFigures | NightFigures) -> str:
    if of.error is None:
        return f"succeeded at {_time(of.ended)}"
    before = f"last success {_time(of.last_success)}" if of.last_success else "no success before"
    return f"failed at {_time(of.ended)} ({before})"


def _student(student: StudentStatus) -> list[str]:
    lines = [f"student   {student.name}: {_table(student)}"]
    lines += [f"          {_generation(one)}" for one in student.generations]
    if (last := student.last) is None:
        return [*lines, "last run  not known: an earlier version of rsr_ray ran it"]
    lines.append(f"last run  {last.run_id} {_ended(last)}, took {duration(last.seconds)}")
    if last.error:
        lines.append(f"          {last.error}")
    share = "" if last.reject_share is None else f" ({last.reject_share:.1%})"
    said = [f"{last.new_trajectories:,} new trajectories", f"{last.rejected:,} rejected{share}"]
    if last.tokens_per_second is not None:
        said.append(f"{last.tokens_per_second:,.0f} tokens/s")
    if last.gpu_hours:
        said.append(f"{last.gpu_hours:,.2f} GPU hours")
    if last.place_changes is not None:
        said.append(counted(last.place_changes, "sure place change"))
    return [*lines, f"          {', '.join(said)}"]


def _table(student: StudentStatus) -> str:
    if student.trajectories is None or student.teachers is None or student.rejected is None:
        return f"not ranked: {student.table_problem}"
    scored = f"{counted(student.trajectories, 'trajectory', 'trajectories')} scored"
    return f"{scored}, {student.rejected:,} rejected, of {counted(student.teachers, 'teacher')}"


def _generation(one: Generation) -> str:
    written = f", last written {_time(one.written)}" if one.written else ""
    ranked = "" if one.ranked else "; not ranked"
    units = counted(one.units, "work unit")
    return f"generation {one.fingerprint}: {units}, {size(one.bytes)}{written}{ranked}"


def _time(said: str | None) -> str:
    """A time in ISO 8601 as a person reads it."""
    return (said or "").replace("T", " ").replace("+00:00", " UTC")
