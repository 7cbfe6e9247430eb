"""whiskers: each teacher's value and interval."""

import math
from typing import TYPE_CHECKING

from rsr_ray.decide.advice import advised
from rsr_ray.decide.ranking import Ranking
from rsr_ray.report.page.charts.names import height_of_rows, names_beside
from rsr_ray.report.page.charts.svg import INK, MOST, SERIES, Size, draw
from rsr_ray.report.terminal.formats import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_whiskers(ranking: Ranking, name: str, axis: str) -> str:
    """Each teacher's value and interval, best first. A teacher that is first only because of
    degenerate trajectories is hollow.
    """
    teachers = ranking.teachers[:MOST]
    doubtful = ranking.teachers[0] if advised(ranking) is not ranking else None

    def plot(ax: "Axes", size: Size) -> None:
        for row, t in enumerate(teachers):
            if t.low is not None and t.high is not None:
                ax.plot([t.low, t.high], [row, row], color=INK, linewidth=2)
            value = math.nan if t.value is None else t.value
            fill = "none" if t is doubtful else SERIES[0]
            ax.plot(value, row, "o", color=SERIES[0], markerfacecolor=fill, markersize=6)
        names_beside(ax, [t.teacher for t in teachers], size)
        ax.set_xlabel(axis)

    sure = percent(ranking.confidence)
    alt = f"Teachers with their {sure} intervals. {ranking.sentence}"
    return draw(height_of_rows(len(teachers)), plot, name, alt)
