"""Arms: training sets to compare."""

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsr_ray.errors import counted, safe
from rsr_ray.report.terminal.choice import left_out_by_default, print_left_out
from rsr_ray.report.terminal.console import print_notes

if TYPE_CHECKING:
    from rsr_ray.arms.manifest import Arm, ArmsManifest, Audit


def print_arms(manifest: "ArmsManifest", out: Console) -> None:
    """The arms side by side, what they have in common, and what was left out."""
    out.print(Text(safe(_title(manifest)), style="bold"), soft_wrap=True)
    out.print(_arms_table(manifest))
    out.print(_teachers_table(manifest))
    of = "prompt" if "prompts" in manifest.config.match else "teacher"
    place = (
        f"place: mean place by {manifest.by.name}: 0 is the lowest of its {of}, 1 the highest; "
        "in parentheses: if only the quotas had to hold"
    )
    out.print(Text(place, style="dim"), soft_wrap=True)
    out.print(Text(_in_common(manifest)), soft_wrap=True)
    if manifest.audit:
        _print_audit(manifest.audit, manifest.config.trainer_length, out)
    print_left_out(manifest.rows, manifest.candidates, manifest.dropped, out)
    print_notes(manifest.notes, out)
    out.print(Text(f"files     {manifest.config.out}/ARM/train-*.{manifest.config.format}"))
    out.print(Text(f"manifest  {manifest.config.out}/manifest.json"), soft_wrap=True)


def _title(manifest: "ArmsManifest") -> str:
    spreads = [f"{name} within {share:.2%}" for name, share in manifest.spread.items()]
    title = (
        f"{len(manifest.arms)} arms of {manifest.arms[0].rows:,} trajectories for student "
        f"{manifest.student}, by {manifest.by.name}; {', '.join(spreads)}"
    )
    return title + left_out_by_default(manifest.dropped)


def _arms_table(manifest: "ArmsManifest") -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("arm", no_wrap=True)
    flops = any(arm.flops is not None for arm in manifest.arms)
    names = ["rows", "prompts", "tokens", *["FLOPs"] * flops, "p5", "median", "p95"]
    for name in (*names, *_metrics(manifest), "place"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in manifest.arms:
        lengths = [f"{n:,}" for n in (arm.lengths.p5, arm.lengths.p50, arm.lengths.p95)]
        table.add_row(
            arm.name,
            f"{arm.rows:,}",
            f"{arm.prompts:,}",
            f"{arm.tokens:,}",
            *([f"{arm.flops:.4g}"] if arm.flops is not None else []),
            *lengths,
            *(f"{arm.means[name]:,.4g}" for name in _metrics(manifest)),
            _place(arm),
        )
    return table


def _metrics(manifest: "ArmsManifest") -> list[str]:
    """Those whose means are shown; the manifest has all."""
    names = dict.fromkeys((manifest.by.name, "rsr", "mean_surprisal"))
    return [name for name in names if all(name in arm.means for arm in manifest.arms)]


def _place(arm: "Arm") -> str:
    free = f" ({arm.free_place:.3f})" if arm.free_place is not None else ""
    return f"{arm.place:.3f}{free}"


def _teachers_table(manifest: "ArmsManifest") -> Table:
    """The quotas: the same in every arm."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("teacher", overflow="fold", min_width=12)
    table.add_column("rows in every arm", justify="right", no_wrap=True)
    for teacher, rows in manifest.arms[0].teachers.items():
        table.add_row(Text(safe(teacher)), f"{rows:,}")
    return table


def _in_common(manifest: "ArmsManifest") -> str:
    """What arms share, in a sentence."""
    trajectories = max(pair.trajectories for pair in manifest.common)
    shared = f"up to {trajectories:,} trajectories" if trajectories else "no trajectory"
    if "prompts" in manifest.config.match:
        return f"All arms have the same prompts; any two share {shared}."
    prompts = max(pair.prompts for pair in manifest.common)
    also = f"up to {counted(prompts, 'prompt')}" if prompts else "no prompt"
    return f"Any two arms share {also} and {shared}."


def _print_audit(audit: "Audit", trainer_length: int | None, out: Console) -> None:
    """Whether the trainer sees what was scored."""
    line = (
        f"Tokens: under the student's template {audit.same:,} of {audit.rows:,} written rows have "
        f"the tokens that were scored; the longest has {audit.longest:,}"
    )
    if trainer_length is not None:
        line += f", and the trainer cuts at {trainer_length:,}"
    out.print(Text(line), soft_wrap=True)
    for why, n in audit.differ.items():
        out.print(Text(safe(f"  {n:,} differ: {why}"), style="yellow"), soft_wrap=True)
    if audit.examples:
        out.print(Text(safe(f"  e.g. {audit.examples[0]}"), style="yellow"), soft_wrap=True)
