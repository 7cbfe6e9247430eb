"""report: what a person reads of a run and of a store, in a terminal."""

from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsr_ray.errors import safe
from rsr_ray.metrics import REGISTRY
from rsr_ray.run import Run
from rsr_ray.schema import DROPPED, REJECT_REASONS

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


def print_choice(manifest: dict[str, Any], out: Console) -> None:
    """What was chosen: from which teachers, beside all candidates and a random choice, and what was left out."""
    by, chosen, prompts, config = manifest["by"], manifest["chosen"], manifest["prompts"], manifest["config"]
    title = f"{chosen:,} trajectories for student {manifest['student']}, up to {config['k']:,} a prompt, by {by['name']} ({by['better']} is better)"
    out.print(Text(safe(title), style="bold"), soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("teacher", overflow="fold", min_width=12)
    for name in ("chosen", "share", "candidates", "tokens each"):
        table.add_column(name, justify="right", no_wrap=True)
    for t in manifest["teachers"]:
        length = f"{t['mean_tokens']:,.0f}" if t["mean_tokens"] is not None else "-"
        table.add_row(Text(safe(t["teacher"])), f"{t['chosen']:,}", f"{t['share']:.1%}", f"{t['candidates']:,}", length)
    out.print(table)
    sets = ("chosen", "candidates", "random")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("mean of the set")
    for name in ("better", *sets):
        table.add_column(name, justify="right", no_wrap=True)
    for name in manifest["means"]["chosen"]:
        better = REGISTRY[name].better
        table.add_row(name, better, *(f"{manifest['means'][some][name]:,.4g}" for some in sets), style="bold" if name == by["name"] else "")
    out.print(table)
    out.print(Text(f"random: as many of each prompt, drawn with seed {config['seed']}", style="dim"))
    out.print(Text(f"{manifest['rows']:,} scored rows = {manifest['candidates']:,} candidates + {sum(manifest['dropped'].values()):,} left out"))
    for why, n in manifest["dropped"].items():
        out.print(Text(f"  {n:,} {why}: {_why_dropped(why)}"))
    line = f"{prompts['all']:,} prompts, {prompts['without_candidates']:,} of them without a candidate"
    out.print(Text(line + (f", {prompts['with_fewer_than_k']:,} with fewer than {config['k']:,}" if config["k"] > 1 else "")))
    if n := manifest["ties"]["prompts"]:
        out.print(Text(f"{n:,} prompts were cut between {manifest['ties']['rule']}"), soft_wrap=True)
    if cap := manifest["cap"]:
        moved = f"{cap['moved']:,} places went to another teacher, {cap['left_out']:,} were left out"
        out.print(Text(f"--max-share {cap['max_share']:g}: no teacher has more than {cap['most']:,}; {moved}"))
    out.print(Text(f"files     {config['out']}/train-*.{config['format']}, {len(manifest['files']):,} of them"), soft_wrap=True)
    out.print(Text(f"manifest  {config['out']}/manifest.json"), soft_wrap=True)


def _why_dropped(why: str) -> str:
    return REJECT_REASONS[why.removeprefix("rejected/")] if why.startswith("rejected/") else DROPPED[why]


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
