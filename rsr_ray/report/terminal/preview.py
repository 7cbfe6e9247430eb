"""Rows as the student will see them."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from rsr_ray.errors import safe

if TYPE_CHECKING:
    from rsr_ray.run.preview import Preview, PreviewRow

SHOWN = 400  # characters of each end of a text that preview shows


def print_plan(preview: "Preview", out: Console) -> None:
    """How a corpus is read, a line a fact."""
    for name, value in preview.plan_to_json().items():
        pairs = (
            [f"{key}={some}" for key, some in value.items()] if isinstance(value, dict) else value
        )
        said = ", ".join(pairs) if isinstance(pairs, list) else str(pairs)
        if said:
            line = Text.assemble((f"{name.replace('_', ' '):14}", "bold"), safe(said))
            out.print(line, soft_wrap=True)


def print_preview_row(row: "PreviewRow", out: Console) -> None:
    """A row as the student sees it, what is scored of it marked; or why it is rejected."""
    where = f"{row.source} row {row.source_row}"
    out.print()
    out.print(Text(safe(f"{where}  {row.teacher or 'no teacher'}"), style="bold"), soft_wrap=True)
    if row.reject_reason:
        reject = f"rejected: {row.reject_reason}: {row.reject_detail}"
        out.print(Text(safe(reject), style="red"), soft_wrap=True)
        return
    text, line, at = row.text or "", Text(), 0
    for start, stop in row.spans:
        line.append(_shortened(text[at:start]), style="dim")
        line.append("«" + _shortened(text[start:stop]) + "»", style="green")
        at = stop
    line.append(_shortened(text[at:]), style="dim")
    out.print(line, soft_wrap=True)


def _shortened(text: str) -> str:
    """A text as it stands, its middle left out where it is long."""
    shown = text if len(text) <= 2 * SHOWN else f"{text[:SHOWN]} … {text[-SHOWN:]}"
    return "\n".join(safe(line) for line in shown.split("\n"))
