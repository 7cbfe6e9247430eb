"""boxes: how the trajectories of each teacher are spread."""

from typing import TYPE_CHECKING, Any

from rsr_ray.report.page.charts.names import height_of_rows, names_beside
from rsr_ray.report.page.charts.svg import INK, MOST, SERIES, Size, draw
from rsr_ray.report.page.summaries import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARTS = ("whislo", "q1", "med", "q3", "whishi")  # of a box, as matplotlib calls them
ALT = (
    "Distribution over the trajectories of each teacher: 5th, 25th, 50th, 75th and 95th "
    "percentiles."
)


def draw_boxes(spreads: list[Spread], name: str, axis: str) -> str:
    """Of each teacher's trajectories the 5th, 25th, 50th, 75th and 95th percentile."""
    spreads = spreads[:MOST]

    def plot(ax: "Axes", size: Size) -> None:
        line = {"color": INK}
        ax.bxp(
            [_box(spread) for spread in spreads],
            positions=range(len(spreads)),
            orientation="horizontal",
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": SERIES[0], "edgecolor": INK, "alpha": 0.5},
            medianprops={"color": INK, "linewidth": 2},
            whiskerprops=line,
            capprops=line,
        )
        names_beside(ax, [spread.teacher for spread in spreads], size)
        ax.set_xlabel(axis)

    return draw(height_of_rows(len(spreads)), plot, name, ALT)


def _box(spread: Spread) -> dict[str, Any]:
    return {**dict(zip(PARTS, spread.percentiles, strict=True)), "fliers": []}
