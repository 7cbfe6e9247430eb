"""plane: mean surprisal against mean rank, the two numbers of which rsr is the ratio."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from rsr_ray.decide.inference import FEWEST
from rsr_ray.errors import safe
from rsr_ray.report.page.charts.svg import FAINT, MOST, SERIES, Size, draw
from rsr_ray.report.page.summaries import Point
from rsr_ray.report.terminal.formats import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_plane(points: list[Point], name: str, confidence: float) -> str:
    """Mean surprisal against mean rank of each teacher, an ellipse that holds its true means, and
    lines of equal rsr.
    """
    points = points[:MOST]

    def plot(ax: "Axes", size: Size) -> None:
        for n, point in enumerate(points):
            _plot_point(ax, point, SERIES[n % len(SERIES)], confidence)
        ax.margins(0.15)
        _plot_equal_rsr(ax, points)
        ax.set_xlabel("mean surprisal, nats per token")
        ax.set_ylabel("mean rank, clipped at r_max")
        _number(ax, [point.mean for point in points])

    first = "; ".join(f"#{n} {_in_words(point)}" for n, point in enumerate(points[:3], 1))
    alt = (
        f"Mean surprisal against mean rank of each teacher; dashed lines have equal rsr, lower "
        f"to the right and below. {first}."
    )
    return draw(4.8, plot, name, alt)


def _in_words(point: Point) -> str:
    surprisal, rank = point.mean
    return (
        f"{safe(point.teacher)} has mean surprisal {number(surprisal)} nats and mean rank "
        f"{number(rank)}"
    )


def _plot_point(ax: "Axes", point: Point, colour: str, confidence: float) -> None:
    """A teacher's means, with an ellipse if there are prompts enough."""
    from matplotlib.patches import Ellipse

    if point.n >= FEWEST:
        spread, turn = np.linalg.eigh(np.array(point.covariance) / point.n)
        width, height = 2 * ellipse_radius(point.n, confidence) * np.sqrt(spread.clip(0))
        angle = np.degrees(np.arctan2(turn[1, 0], turn[0, 0]))
        ellipse = Ellipse(
            point.mean,
            width,
            height,
            angle=angle,
            facecolor=colour,
            edgecolor=colour,
            alpha=0.25,
        )
        ax.add_patch(ellipse)
    ax.plot(*point.mean, "o", color=colour, markersize=6)


def ellipse_radius(n: int, confidence: float) -> float:
    """In standard errors, of the ellipse that holds both means of n prompts:

    Hotelling's T squared, 1931.
    """
    return float(np.sqrt(2 * (n - 1) / (n - 2) * special.fdtri(2, n - 2, confidence)))


def _plot_equal_rsr(ax: "Axes", points: list[Point]) -> None:
    """Lines of equal rsr through the part of the plane that is shown; fixes its limits."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    left, bottom = max(left, 1e-9), max(bottom, 0)
    ratios = np.array([rank / surprisal for surprisal, rank in (point.mean for point in points)])
    shown = np.unique(np.round(np.linspace(ratios.min() * 0.9, ratios.max() * 1.1, 6), 1))
    for ratio in shown:
        ax.axline((0, 0), slope=ratio, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
        leaves_right = ratio * right < top
        x, y = (right, ratio * right) if leaves_right else (top / ratio, top)
        if x < left or y < bottom:
            continue
        away: dict[str, Any] = (
            {"xytext": (4, 0), "va": "center"}
            if leaves_right
            else {"xytext": (0, 2), "ha": "center"}
        )
        ax.annotate(
            f"rsr {ratio:.1f}",
            (x, y),
            textcoords="offset points",
            fontsize=8,
            annotation_clip=False,
            **away,
        )
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)


# --- numbers beside the points --------------------------------------------------------------------


@dataclass(frozen=True)
class Box:
    """A place that is taken, in points (1/72 inch)."""

    x: float  # of the centre
    y: float
    half_width: float
    half_height: float

    def is_apart(self, other: "Box") -> bool:
        return (
            abs(self.x - other.x) > self.half_width + other.half_width
            or abs(self.y - other.y) > self.half_height + other.half_height
        )


def _number(ax: "Axes", means: list[tuple[float, float]]) -> None:
    """Each point's number beside it, at the nearest place without a point or number."""
    figure = ax.get_figure()
    assert figure is not None
    figure.draw_without_rendering()  # type: ignore[union-attr]
    at = ax.transData.transform(means) * 72 / figure.dpi
    taken = [Box(x, y, 4.0, 4.0) for x, y in at]
    for n, (x, y) in enumerate(at, 1):
        label = Box(x, y, 3 + 3 * len(str(n)), 5.0)
        dx, dy = _free_step(label, taken)
        taken.append(Box(x + dx, y + dy, label.half_width, label.half_height))
        _annotate(ax, f"#{n}", means[n - 1], (dx, dy))


def _free_step(label: Box, taken: list[Box]) -> tuple[float, float]:
    """How far to move a label so that it covers nothing; a little if there is no such place."""
    turns = np.radians([20, -20, 160, 200, 70, -70, 110, 250])
    steps = [(far * np.cos(turn), far * np.sin(turn)) for far in range(12, 80, 8) for turn in turns]
    for dx, dy in steps:
        moved = Box(label.x + dx, label.y + dy, label.half_width, label.half_height)
        if all(moved.is_apart(other) for other in taken):
            return dx, dy
    return steps[0]


def _annotate(ax: "Axes", text: str, point: tuple[float, float], step: tuple[float, float]) -> None:
    """A text a step away from a point, with a line between them if it is far."""
    line = (
        {"arrowstyle": "-", "color": FAINT, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3}
        if np.hypot(*step) > 13
        else None
    )
    ax.annotate(
        text,
        point,
        xytext=step,
        textcoords="offset points",
        fontsize=9,
        ha="center",
        va="center",
        arrowprops=line,
    )
