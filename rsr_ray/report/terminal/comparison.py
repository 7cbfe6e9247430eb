"""Two stores, students or nights, side by side."""

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsr_ray.errors import safe
from rsr_ray.report.terminal.console import NARROW, print_notes
from rsr_ray.report.terminal.formats import number, percent

if TYPE_CHECKING:
    from rsr_ray.decide.comparison import Comparison
    from rsr_ray.decide.moved import Move, Swap
    from rsr_ray.decide.shared_trajectories import SharedTrajectories
    from rsr_ray.decide.sides import SideFacts

SWAPS = 10  # pairs that changed order that are listed


def print_comparison(comparison: "Comparison", out: Console) -> None:
    """The sentence, the sides, each teacher's values and places, what changed order, notes."""
    out.print(Text(safe(comparison.sentence), style="bold"))
    for mark, facts in (("A", comparison.a), ("B", comparison.b)):
        out.print(Text(safe(f"{mark}: {_side(facts)}"), style="dim"), soft_wrap=True)
    by = f"{comparison.metric} ({comparison.better} is better)"
    out.print(Text(f"Teachers by {by}, on {comparison.basis}", style="dim"))
    out.print(_teachers_table(comparison, wide=out.width >= NARROW))
    _print_swaps(comparison.swaps, out)
    _print_order(comparison, out)
    if comparison.trajectories:
        out.print(Text(safe(_trajectories(comparison.trajectories))))
    _print_missing(comparison, out)
    print_notes([*comparison.notes, *noise_in_words(comparison)], out)


def noise_in_words(comparison: "Comparison") -> list[str]:
    """What "more than noise" means in a comparison; nothing where it is said of nothing."""
    same_student = comparison.same_student
    many = len(comparison.teachers)
    judged = []
    if same_student:
        judged.append(f"the {many} teachers" if many > 1 else "the one teacher")
    if many > 1:
        judged.append(f"all pairs of the {many} teachers")
    if not judged:
        return []
    corrected = ", with Holm's correction" if many > 1 else ""
    alone = "; intervals are per teacher, uncorrected" if same_student else ""
    return [
        f"more than noise: significant at {percent(comparison.confidence)} on prompts like "
        f"these, for {' and '.join(judged)}{corrected}{alone}"
    ]


def _side(facts: "SideFacts") -> str:
    night = f", night {facts.night}" if facts.night else ""
    return f"{facts.store}, student {facts.student}{night}"


def _teachers_table(comparison: "Comparison", *, wide: bool) -> Table:
    """A row a teacher; `wide` adds the counts."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, show_edge=False)
    table.add_column("teacher", overflow="fold", min_width=12)
    interval = f"{percent(comparison.confidence)} interval\nof B - A"
    columns = ["place\nA > B", "A", "B", "B - A", interval]
    if wide:
        columns += ["draws with\nB higher", "prompts", "scored\nA", "scored\nB"]
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("more than\nnoise", no_wrap=True)
    for move in comparison.teachers:
        counts = _counts(move) if wide else []
        table.add_row(Text(safe(move.teacher)), *_values(move), *counts, _verdict(move))
    return table


def _values(move: "Move") -> list[str]:
    return [
        f"{move.a.place} > {move.b.place}",
        number(move.a.value),
        number(move.b.value),
        number(move.difference),
        f"{number(move.low)} to {number(move.high)}" if move.low is not None else "-",
    ]


def _counts(move: "Move") -> list[str]:
    return [
        f"{move.p_up:.0%}" if move.p_up is not None else "-",
        f"{move.n_prompts:,}" if move.n_prompts is not None else "-",
        f"{move.a.n_trajectories:,}",
        f"{move.b.n_trajectories:,}",
    ]


def _verdict(move: "Move") -> str:
    """Whether a teacher moved by more than noise, and which way; "-" where that cannot be told."""
    if move.more_than_noise is None:
        return "-"
    if not move.more_than_noise:
        return "no" if move.difference else "same"
    return f"yes, {move.went}"


def _print_swaps(swaps: list["Swap"], out: Console) -> None:
    for swap in swaps[:SWAPS]:
        out.print(Text(safe(f"changed order: {_swap(swap)}")))
    if len(swaps) > SWAPS:
        out.print(Text(f"changed order: {len(swaps) - SWAPS:,} other pairs; --json lists them"))


def _swap(swap: "Swap") -> str:
    sure = "more than noise" if swap.more_than_noise else "may be noise"
    if swap.more_than_noise is None:
        sure = "not tested"
    share = f", both orders in {swap.share:.0%} of draws" if swap.share is not None else ""
    return f"A ranks {swap.before_in_a} above {swap.before_in_b}, B the reverse{share}: {sure}"


def _print_order(comparison: "Comparison", out: Console) -> None:
    tau = comparison.kendall
    if tau is None:
        return
    between = f" ({number(tau.low)} to {number(tau.high)})" if tau.low is not None else ""
    n = comparison.n_prompts_ranked
    on = f", prompts: {n:,}" if n is not None else ""
    out.print(Text(f"order: Kendall's tau of the two rankings {number(tau.value)}{between}{on}"))


def _trajectories(rows: "SharedTrajectories") -> str:
    alone = f"{rows.only_a:,} only in A, {rows.only_b:,} only in B"
    return f"trajectories: {rows.both:,} in both{_changed(rows)}; {alone}"


def _changed(rows: "SharedTrajectories") -> str:
    if rows.differ is None or not rows.both:
        return ""
    if not rows.differ:
        return ", with bit-for-bit the same scores"
    return (
        f"; {rows.differ:,} of them have different scores: by at most {rows.largest:.2g}, "
        f"{rows.column} of {rows.where}"
    )


def _print_missing(comparison: "Comparison", out: Console) -> None:
    """Teachers that were not compared."""
    for what, names in (
        ("only in A", comparison.only_a),
        ("only in B", comparison.only_b),
        ("in both, without shared prompts", comparison.unmatched),
    ):
        if names:
            out.print(Text(safe(f"teachers {what}: {', '.join(names)}")))
