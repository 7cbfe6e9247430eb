"""places: the place of each teacher over nights."""

from typing import TYPE_CHECKING

from rsr_ray.errors import safe
from rsr_ray.report.page.charts.names import labels, shorten
from rsr_ray.report.page.charts.svg import DIRECT, SERIES, Size, draw
from rsr_ray.report.page.nights import ShownNight

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_places(nights: list[ShownNight], name: str) -> str:
    """The place of each teacher over nights: those with a place in the last night, at most DIRECT.

    The last night has at least one place.
    """
    teachers = _last_places(nights[-1])

    def plot(ax: "Axes", size: Size) -> None:
        texts = labels(teachers, size.letters)
        for n, (teacher, text) in enumerate(zip(teachers, texts, strict=True)):
            _plot_teacher(ax, nights, teacher, text, SERIES[n])
        step = -(-len(nights) // size.ticks)
        ax.set_xticks(
            range(0, len(nights), step),
            [shorten(safe(night.night), 12) for night in nights[::step]],
        )
        ax.set_xlim(-0.3, len(nights) - 0.7)
        most = max(night.places.get(teacher) or 1 for night in nights for teacher in teachers)
        ax.set_yticks(range(1, most + 1))
        ax.invert_yaxis()
        ax.set_ylabel("place (1 is best)")

    said = ", ".join(f"#{place} {safe(teacher)}" for teacher, place in teachers.items())
    last = safe(nights[-1].night)
    alt = f"Places of the teachers over the nights. In the last, {last}: {said}."
    return draw(3.2, plot, name, alt)


def _last_places(night: ShownNight) -> dict[str, int]:
    """The first DIRECT teachers of a night with their places, in their order."""
    placed = [(teacher, place) for teacher, place in night.places.items() if place]
    return dict(sorted(placed, key=lambda item: item[1])[:DIRECT])


def _plot_teacher(
    ax: "Axes", nights: list[ShownNight], teacher: str, text: str, colour: str
) -> None:
    """A line through the nights in which the teacher has a place, `text` at its end."""
    known = [(i, place) for i, night in enumerate(nights) if (place := night.places.get(teacher))]
    ax.plot(*zip(*known, strict=True), "-o", color=colour)
    ax.annotate(
        text,
        known[-1],
        xytext=(8, -3),
        textcoords="offset points",
        fontsize=9,
        annotation_clip=False,
    )
