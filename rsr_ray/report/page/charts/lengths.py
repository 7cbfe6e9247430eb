"""lengths: the length of trajectories against the metric."""

from typing import TYPE_CHECKING

import numpy as np

from rsr_ray.report.page.charts.names import labels, legend_above, places_of
from rsr_ray.report.page.charts.svg import DIRECT, SERIES, Size, draw
from rsr_ray.report.page.summaries import Sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

ALT = "Length of individual trajectories against the metric."


def draw_lengths(teachers: list[str], sample: Sample, name: str, axis: str) -> str:
    """Length against the metric, of some trajectories of the first DIRECT teachers."""
    teachers = teachers[:DIRECT]

    def plot(ax: "Axes", size: Size) -> None:
        lines = [_plot_dots(ax, sample, place) for place in range(len(teachers))]
        ax.set_xscale("log")
        ticks = _ticks(int(sample.n_tokens.min()), int(sample.n_tokens.max()))
        ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
        ax.minorticks_off()
        if sample.values.min() > 0:
            inside = np.percentile(sample.values, [1, 99]).tolist()
            ax.set_ylim(min(inside) * 0.9, max(inside) * 1.1)
        ax.set_xlabel("scored tokens of a trajectory")
        ax.set_ylabel(axis)
        legend_above(ax, lines, labels(places_of(teachers), size.letters))

    return draw(4.2, plot, name, ALT)


def _plot_dots(ax: "Axes", sample: Sample, place: int) -> "Line2D":
    """The trajectories of the teacher at a place (from 0), in its colour.

    They are segments of next to no length with round ends: one path, where a mark a point would
    make half of the page.
    """
    mine = sample.place == place
    x = sample.n_tokens[mine].astype(float)
    y = sample.values[mine]
    gap = np.full(len(x), np.nan)
    along = np.stack((x, x * 1.0001, gap), 1).reshape(-1)
    up = np.stack((y, y, y), 1).reshape(-1)
    (line,) = ax.plot(
        along, up, color=SERIES[place], linewidth=3, solid_capstyle="round", alpha=0.6
    )
    return line


def _ticks(least: int, most: int) -> list[int]:
    """Round numbers of tokens between two; where they are fewer than three, others."""
    ticks = [n * 10**p for p in range(9) for n in (1, 2, 5) if least <= n * 10**p <= most]
    if len(ticks) >= 3:
        return ticks
    return [int(n) for n in np.unique(np.geomspace(least, most, 4).round().astype(int))]
