"""The trajectories chosen for training."""

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsr_ray.errors import counted, safe
from rsr_ray.metrics import REGISTRY
from rsr_ray.report.terminal.console import print_notes
from rsr_ray.schema import DROPPED, REJECT_REASONS

if TYPE_CHECKING:
    from rsr_ray.choose.manifest import Manifest

NAMED = 5  # teachers in the first line


def print_choice(manifest: "Manifest", out: Console) -> None:
    """What was chosen: from which teachers, beside all candidates and a random choice, and what
    was left out.
    """
    out.print(Text(safe(_title(manifest)), style="bold"), soft_wrap=True)
    out.print(_teachers_table(manifest))
    out.print(_means_table(manifest))
    seed = manifest.config.seed
    random = f"random: the same number per prompt, sampled at random (seed {seed})"
    out.print(Text(random, style="dim"))
    print_left_out(manifest.rows, manifest.candidates, manifest.dropped, out)
    print_notes(manifest.notes, out)
    _print_prompts(manifest, out)
    _print_files(manifest, out)


def _title(manifest: "Manifest") -> str:
    by = manifest.by
    chosen = counted(manifest.chosen, "trajectory", "trajectories")
    what = f"{chosen} {_whose(manifest)} for student {manifest.student}"
    title = f"{what}, up to {manifest.config.k:,} per prompt, by {by.name} ({by.better} is better)"
    return title + left_out_by_default(manifest.dropped)


def left_out_by_default(dropped: dict[str, int]) -> str:
    """How many rows no filter that was asked for left out, to end a title."""
    said = ""
    if n := dropped.get("incomplete", 0):
        said += f"; {counted(n, 'cut-off answer')} left out (--keep-incomplete keeps them)"
    if n := dropped.get("degenerate", 0):
        said += f"; {n:,} degenerate left out (--keep-degenerate keeps them)"
    return said


def _whose(manifest: "Manifest") -> str:
    """Which teachers the trajectories are of, those with the most of them first."""
    some = [t for t in manifest.teachers if t.chosen]
    if len(some) == 1:
        return f"of {some[0].teacher}"
    named = [f"{t.teacher} {t.share:.0%}" for t in some[:NAMED]]
    if len(some) > NAMED:
        others = sum(t.share for t in some[NAMED:])
        named.append(f"{len(some) - NAMED:,} more {others:.0%}")
    return f"of {len(some):,} teachers ({', '.join(named)})"


def _teachers_table(manifest: "Manifest") -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("teacher", overflow="fold", min_width=12)
    for name in ("chosen", "share", "candidates", "tokens each"):
        table.add_column(name, justify="right", no_wrap=True)
    for t in manifest.teachers:
        length = f"{t.mean_tokens:,.0f}" if t.mean_tokens is not None else "-"
        counts = (f"{t.chosen:,}", f"{t.share:.1%}", f"{t.candidates:,}")
        table.add_row(Text(safe(t.teacher)), *counts, length)
    return table


def _means_table(manifest: "Manifest") -> Table:
    """The mean of each metric over what was chosen, all candidates and a random choice."""
    sets = ("chosen", "candidates", "random")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("mean over the set")
    for name in ("better", *sets):
        table.add_column(name, justify="right", no_wrap=True)
    for name in manifest.means["chosen"]:
        values = [manifest.means[some].get(name) for some in sets]
        means = ["-" if value is None else f"{value:,.4g}" for value in values]
        is_by = name == manifest.by.name
        better = manifest.by.better if is_by else REGISTRY[name].better
        table.add_row(name, better, *means, style="bold" if is_by else "")
    return table


def print_left_out(rows: int, candidates: int, dropped: dict[str, int], out: Console) -> None:
    """Of the scored rows, how many are no candidates, and why."""
    equation = (
        f"{rows:,} scored rows = {candidates:,} candidates + {sum(dropped.values()):,} left out"
    )
    out.print(Text(equation))
    for why, n in dropped.items():
        out.print(Text(f"  {n:,} {why}: {_why_dropped(why)}"))


def _why_dropped(why: str) -> str:
    return (
        REJECT_REASONS[why.removeprefix("rejected/")]
        if why.startswith("rejected/")
        else DROPPED[why]
    )


def _print_prompts(manifest: "Manifest", out: Console) -> None:
    """How many prompts have candidates, ties, and what the cap changed."""
    prompts = manifest.prompts
    k = manifest.config.k
    none = prompts.without_candidates
    line = (
        f"{counted(prompts.all, 'prompt')}, {none:,} without a candidate"
        if none
        else f"All {prompts.all:,} prompts have a candidate"
    )
    fewer = f", {prompts.with_fewer_than_k:,} with fewer than {k:,}" if k > 1 else ""
    out.print(Text(line + fewer))
    if n := manifest.ties.prompts:
        out.print(
            Text(f"{n:,} prompts have a tie at the cut; {manifest.ties.rule}"), soft_wrap=True
        )
    if cap := manifest.cap:
        moved = (
            f"{cap.moved:,} rows were replaced by another teacher's, {cap.left_out:,} were left out"
        )
        most = f"--max-share {cap.max_share:g}: no teacher has more than {cap.most:,}"
        out.print(Text(f"{most}; {moved}"))


def _print_files(manifest: "Manifest", out: Console) -> None:
    config = manifest.config
    files = f"{config.out}/train-*.{config.format}, {len(manifest.files):,} of them"
    out.print(Text(f"files     {files}"), soft_wrap=True)
    out.print(Text(f"manifest  {config.out}/manifest.json"), soft_wrap=True)
