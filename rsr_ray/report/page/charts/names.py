"""names: teachers' names in charts, beside their rows or in a legend."""

from collections.abc import Collection
from itertools import takewhile
from typing import TYPE_CHECKING

from rsr_ray.errors import safe
from rsr_ray.report.page.charts.svg import Size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

ROW = 0.2  # inches: a teacher's line in a chart


def height_of_rows(n: int) -> float:
    """Inches, of a chart with a row for each of n teachers."""
    return 0.8 + ROW * n


def names_beside(ax: "Axes", teachers: list[str], size: Size) -> None:
    """A row per teacher, the first at the top, with its place and name."""
    ax.set_yticks(range(len(teachers)), labels(places_of(teachers), size.letters))
    ax.set_ylim(len(teachers) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)


def legend_above(ax: "Axes", lines: "list[Line2D]", names: list[str]) -> None:
    """A legend above the chart, where it hides nothing; matplotlib leaves names that begin with
    _ out of its own.
    """
    figure = ax.get_figure()
    assert figure is not None
    figure.legend(lines, names, loc="outside upper left", fontsize=9, ncols=2)


def places_of(teachers: list[str]) -> dict[str, int]:
    """Places of teachers that are in the order of the ranking."""
    return {teacher: place for place, teacher in enumerate(teachers, 1)}


def labels(places: dict[str, int], letters: int) -> list[str]:
    """`#place name` of each teacher, in about so many letters."""
    names = [safe(name) for name in places]
    room = letters - len(f"#{max(places.values(), default=0)} ")
    return [
        f"#{place} {shorten(name, room, {*names} - {name})}"
        for name, place in zip(names, places.values(), strict=True)
    ]


def shorten(name: str, letters: int, others: Collection[str] = ()) -> str:
    """A name in so many letters: its beginning, and what comes where it parts from the other
    that is most like it.
    """
    if len(name) <= letters:
        return name
    same = max((_n_same(name, other) for other in others), default=0)
    if same + 4 < letters:
        return f"{name[: letters - 1]}…"
    head = letters // 3
    room = letters - head - 1
    start = min(same, len(name) - room)
    return f"{name[:head]}…{shorten(name[start:], room)}"


def _n_same(a: str, b: str) -> int:
    """With how many equal letters two names begin."""
    pairs = zip(a, b, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
