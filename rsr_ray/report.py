"""report: what a person reads of a run and of a store, in a terminal."""

import math
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsr_ray.errors import safe
from rsr_ray.run import Run
from rsr_ray.schema import REJECT_REASONS

if TYPE_CHECKING:
    from rsr_ray.doctor import Doctor


def console() -> Console:
    """A console as wide as the terminal, and wide enough for the table where the output is piped."""
    return Console() if Console().is_terminal else Console(width=120)


def print_teachers(teachers: list[dict[str, Any]], student_name: str, out: Console) -> None:
    """The ranking: lowest rsr first, the length beside it."""
    title = Text(f"Teachers for student {student_name}, sorted by rsr (lower is better)")
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("#", justify="right")
    table.add_column("teacher", overflow="fold", min_width=12)
    for name in ("rsr\nlower=better", "mean\nrank", "nats a\ntoken", "tokens\neach", "scored", "rejec-\nted", "dupli-\ncates", "trun-\ncated"):
        table.add_column(name, justify="right", no_wrap=True)
    for t in teachers:
        numbers = [f"{t[name]:.3f}" if t[name] is not None else "-" for name in ("rsr", "mean_rank", "mean_surprisal")]
        length = f"{t['mean_tokens']:,.0f}" if t["mean_tokens"] is not None else "-"
        counts = [f"{t[name]:,}" for name in ("n_trajectories", "n_rejected", "n_duplicates", "n_truncated")]
        table.add_row(str(t["place"] or "-"), Text(safe(t["teacher"])), *numbers, length, *counts)
    out.print(table)


def print_run(run: Run, store_uri: str, out: Console) -> None:
    """The row equation, the rejects by reason, and where the files are."""
    out.print(Text(run.equation))
    if run.splits:
        out.print(Text(f"  memory ran out {run.splits:,} times: batches were split and made smaller; --batch-tokens sets their size"))
    for reason, n in run.rejected.most_common():
        out.print(Text(f"  rejected {n:,} {reason}: {REJECT_REASONS[reason]}"))
        out.print(Text(safe(f"    e.g. {run.examples[reason]}")), style="dim")
    out.print(Text(f"scores    {store_uri}/scores/student={run.config.student_name}/"), soft_wrap=True)
    out.print(Text(f"teachers  {store_uri}/teachers/student={run.config.student_name}.parquet"), soft_wrap=True)
    out.print(Text(f"run       {store_uri}/runs/{run.run_id}.json"), soft_wrap=True)


def print_doctor(doctor: "Doctor", out: Console) -> None:
    """The sample with what is scored marked, then a line a finding."""
    for shown in doctor.shown:
        line = Text(safe(f"{shown.trajectory_id}: "), style="bold")
        if shown.reject:
            line.append(safe(f"rejected: {shown.reject}"), style="red")
        at = 0
        for start, stop in shown.spans:
            line.append(_middle_out(shown.text[at:start]), style="dim")
            line.append("«" + _middle_out(shown.text[start:stop]) + "»", style="green")
            at = stop
        out.print(line, soft_wrap=True)
    if doctor.shown:
        out.print(Text("«scored», the rest is context\n", style="dim"))
    style = {"ok": "green", "warning": "yellow", "failure": "bold red"}
    for finding in doctor.findings:
        out.print(Text.assemble((f"{finding.level:8}", style[finding.level]), f" {finding.check}: {finding.says}"), soft_wrap=True)


def _middle_out(text: str) -> str:
    """A text in one line, its middle left out where it is long."""
    text = safe(" ".join(text.replace("\n", "⏎ ").split()))
    return text if len(text) <= 80 else f"{text[:38]} … {text[-38:]}"


def race_line(record: dict[str, Any]) -> str:
    """A round of a race in one line."""
    leader, n = record["leader"], len(record["alive"])
    first = f"{leader['teacher']} leads, {record['by']} {_interval(leader)}" if leader else "nobody leads yet"
    left = f"; out: {', '.join(record['left'])}" if record["left"] else ""
    so_far = f"{record['prompts']:,} of {record['of_prompts']:,} prompts, {record['cost_share']:.1%} of the full cost"
    return safe(f"round {record['round']}: {so_far}; {first}{left}; {n} teacher{'s'[: n != 1]} in")


def _interval(standing: dict[str, Any]) -> str:
    return f"{standing['value']:.3f} ({standing['low']:.3f} to {standing['high']:.3f})"


def print_race(record: dict[str, Any], store_uri: str, out: Console) -> None:
    """The teachers of a race, best first, who is the winner and how sure that is, and what it cost."""
    by, better, share = record["by"], record["better"], f"{record['confidence']:g}"
    title = Text(f"Race of teachers for student {record['student']}, by {by} ({better} is better)")
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("teacher", overflow="fold", min_width=12)
    for name in (f"{by}\n{better}=better", f"interval\nat {share}", "prompts", "out after\nround"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    for t in record["teachers"]:
        numbers = [f"{t['value']:.3f}", f"{t['low']:.3f} - {t['high']:.3f}", f"{t['n_prompts']:,}"] if "value" in t else ["-"] * 3
        why = t["why"] or ("winner" if t["teacher"] == record["winner"] else "could still win")
        table.add_row(Text(safe(t["teacher"])), *numbers, str(t["left_after_round"] or "-"), Text(safe(why)))
    out.print(table)
    out.print(Text(safe(race_answer(record)), style="bold"), soft_wrap=True)
    spent, full = record["spent"], record["full"]
    tokens = f"{spent['scored_tokens']:,} tokens scored, {spent['prompt_tokens']:,} of prompts"
    trajectories = f"{spent['trajectories']:,} of {full['trajectories']:,} trajectories"
    out.print(Text(f"cost      {spent['cost_share']:.1%} of scoring all {record['matched_prompts']:,} matched prompts: {trajectories}; {tokens}"))
    for reason, n in record["rejected"].items():
        out.print(Text(f"  rejected {n:,} {reason}: {REJECT_REASONS[reason]} Their prompts are not compared."), soft_wrap=True)
    if record["unreadable_rows"]:
        out.print(Text(f"  {record['unreadable_rows']:,} rows of the corpus hold no conversation that could be read and did not race"))
    out.print(Text(f"race      {store_uri}/races/{record['race_id']}/race.json"), soft_wrap=True)


def race_answer(record: dict[str, Any]) -> str:
    """What a race found out, in a sentence."""
    if not record["decided"]:
        more = record["next_cost_share"]
        go_on = f"; the next round takes the cost to {more:.1%}: give --budget {math.ceil(more * 100) / 100:g} or more to go on" if more else ""
        left = f"{len(record['alive'])} teachers could still win: {', '.join(record['alive'])}" if record["alive"] else "No teacher is left"
        return f"Not decided: {record['reason']}. {left}{go_on}"
    if record["rounds"][-1]["prompts"] == record["matched_prompts"]:
        return f"{record['winner']} is best: {record['reason']}"
    within = f", or within {record['margin']:.2%} of the best" if record["margin"] else ""
    return f"{record['winner']} is best{within}, with confidence {record['confidence']:g}: {record['reason']}"


def print_rejects(rows: list[dict[str, Any]], out: Console) -> None:
    """A row a line, by reason."""
    for reason in dict.fromkeys(sorted(row["reject_reason"] for row in rows)):
        some = [row for row in rows if row["reject_reason"] == reason]
        out.print(Text(f"{len(some):,} {reason}: {REJECT_REASONS[reason]}", style="bold"), soft_wrap=True)
        for row in some:
            where = f"{row['source']} row {row['source_row']}"
            out.print(Text(safe(f"  {row['teacher']}  {row['trajectory_id']}  {where}: {row['reject_detail']}")), soft_wrap=True)
    if not rows:
        out.print("no row was rejected")


def print_night(night: dict[str, Any], store_uri: str, out: Console) -> None:
    """Of each student the ranking and what changed since the last night, or the error that stopped it."""
    if held := night.get("held_by"):
        ago = f", which wrote its lease {held['age']:.0f} s ago"
        out.print(Text(f"Another nightly run is at work on {store_uri} ({held.get('holder', 'starting')}{ago}); this one leaves it to it."))
        return
    for name, student in night["students"].items():
        if "teachers" in student:
            print_teachers(student["teachers"], name, out)
            for line in _changes(student, night["night"]):
                out.print(Text(safe(line)), soft_wrap=True)
        if student["error"]:
            out.print(Text(safe(f"student {name}: {student['error']}"), style="bold red"), soft_wrap=True)
        out.print()
    out.print(Text(f"night     {store_uri}/nightly/{night['night']}.json"), soft_wrap=True)


def _changes(student: dict[str, Any], night: str) -> list[str]:
    """What changed for a student, a line each."""
    equation, changes = student["equation"], student["changes"]
    rejected = sum(equation["rejected"].values())
    lines = [f"night {night}: {equation['scored']:,} scored, {rejected:,} rejected, {equation['already_scored']:,} scored before"]
    if changes is None:
        return [*lines, "nothing to compare with: the first night of this student" if not student["since"] else
                f"not compared with night {student['since']}: the settings or weights were others"]  # fmt: skip
    lines[0] += f"; since night {student['since']}:"
    for new in changes["new_teachers"]:
        place = f"takes place {new['place']} of {new['of']} (rsr {new['rsr']:.3f}, lower is better)" if new["place"] else "has nothing scored"
        lines.append(f"  new teacher {new['teacher']} {place}")
    lines += [f"  {moved['teacher']} moved from place {moved['from']} to {moved['to']}" for moved in changes["moved"]]
    lines += [f"  {name} is gone" for name in changes["gone_teachers"]]
    grown = changes["new_trajectories"]
    if grown:
        lines.append(f"  {sum(grown.values()):+,} trajectories: " + ", ".join(f"{name} {n:+,}" for name, n in grown.items()))
    lines += [f"  {n:+,} rejected as {reason}: {REJECT_REASONS[reason]}" for reason, n in changes["new_rejects"].items()]
    return lines if len(lines) > 1 else [*lines, "  nothing changed"]
