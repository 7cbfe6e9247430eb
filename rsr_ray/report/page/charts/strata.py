"""strata: how teachers lie in each stratum, as a heat map."""

from typing import TYPE_CHECKING, Any

import numpy as np

from rsr_ray.decide.ranking import Ranking
from rsr_ray.decide.strata_ranking import StrataRanking, StratumRanking
from rsr_ray.errors import safe
from rsr_ray.report.page.charts.names import height_of_rows, labels, shorten
from rsr_ray.report.page.charts.svg import GRID, INK, MOST, SERIES, Size, draw
from rsr_ray.report.terminal.formats import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEPS = 5  # of colour on each side of the mean
STRONGEST = 0.55  # opacity of the last: text on it can be read under each scheme
USUAL = 95  # percent of the differences that are told apart by colour; the others are the last step
LETTERS = 14  # of a stratum's name
LETTER = 0.075  # inches
NAMED = 8  # strata that the text alternative speaks of


def draw_strata(found: StrataRanking, name: str) -> str:
    """Teachers in strata, coloured by how much better or worse than the mean of the stratum's
    teachers they are; those that may be its best are outlined, unless all may.
    """
    teachers, strata = found.teachers[:MOST], found.strata[:MOST]
    values = _values(teachers, strata)
    worse = _from_mean(values)
    worse = -worse if found.better == "higher" else worse
    best = np.array([_may_be_best(one.ranking, teachers) for one in strata]).T
    heads = [safe(one.stratum) for one in strata]
    longest = min(LETTERS, max(map(len, heads)))

    def plot(ax: "Axes", size: Size) -> None:
        _draw_cells(ax, worse, best)
        letters = size.letters - (6 if len(strata) > 2 * size.ticks else 0)
        width = 72 * size.width - 5.5 * letters  # points for the cells
        _name_teachers(ax, found, teachers, letters)
        _name_strata(ax, heads, width / len(strata))
        if width / len(strata) > 26:
            _write_values(ax, values)

    height = height_of_rows(len(teachers)) + LETTER * longest
    return draw(height, plot, name, _alt(found))


def usual_difference(found: StrataRanking) -> float:
    """The difference from the mean at which the colour is strongest."""
    values = _values(found.teachers[:MOST], found.strata[:MOST])
    return _scale(_from_mean(values))


def _values(teachers: list[str], strata: list[StratumRanking]) -> np.ndarray:
    """Of teachers in strata, float64 [T, S]; NaN where a teacher is not in one."""
    values = np.full((len(teachers), len(strata)), np.nan)
    place = {name: n for n, name in enumerate(teachers)}
    for s, stratum in enumerate(strata):
        for t in stratum.ranking.teachers:
            if t.teacher in place and t.value is not None:
                values[place[t.teacher], s] = t.value
    return values


def _may_be_best(ranking: Ranking, teachers: list[str]) -> list[bool]:
    """Which of the teachers may be the best of a stratum; none where all of its own may."""
    are_all = len(ranking.best) == len(ranking.teachers)
    return [name in ranking.best and not are_all for name in teachers]


def _from_mean(values: np.ndarray) -> np.ndarray:
    """Values [T, S] less the mean of their stratum."""
    n = (~np.isnan(values)).sum(0)
    difference: np.ndarray = values - np.nansum(values, axis=0) / np.maximum(n, 1)
    return difference


def _scale(worse: np.ndarray) -> float:
    known = np.abs(worse[~np.isnan(worse)])
    return float(np.percentile(known, USUAL)) if len(known) else 0.0


def _draw_cells(ax: "Axes", worse: np.ndarray, best: np.ndarray) -> None:
    """A rectangle a cell; those of a colour are one path."""
    steps = np.ceil(np.clip(np.abs(worse) / (_scale(worse) or 1.0), 0, 1) * STEPS)
    for step in range(1, STEPS + 1):
        look: dict[str, Any] = {"alpha": STRONGEST * step / STEPS, "linewidth": 0}
        _add_cells(ax, (steps == step) & (worse < 0), facecolor=SERIES[0], **look)
        _add_cells(ax, (steps == step) & (worse > 0), facecolor=SERIES[1], **look)
    _add_cells(ax, np.isnan(worse), facecolor="none", edgecolor=GRID, linewidth=0.8)
    _add_cells(ax, best, facecolor="none", edgecolor=INK, linewidth=1.2)
    ax.set_xlim(-0.5, worse.shape[1] - 0.5)
    ax.set_ylim(worse.shape[0] - 0.5, -0.5)
    ax.grid(visible=False)
    ax.tick_params(length=0)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)


def _add_cells(ax: "Axes", cells: np.ndarray, **look: Any) -> None:
    """The cells of a mask [T, S]."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    unit = 0.92 * (np.asarray(Path.unit_rectangle().vertices, float) - 0.5)
    corners = Path.unit_rectangle().codes
    found = [Path(unit + np.array([s, t]), corners) for t, s in np.argwhere(cells)]
    if found:
        ax.add_patch(PathPatch(Path.make_compound_path(*found), **look))


def _name_teachers(ax: "Axes", found: StrataRanking, teachers: list[str], letters: int) -> None:
    """Beside the rows; those over all strata with their place."""
    ranked = found.overall.teachers if found.overall else []
    names = labels({t.teacher: t.place for t in ranked[: len(teachers)]}, letters)
    others = [safe(name) for name in teachers[len(names) :]]
    names += [shorten(name, letters, {*others} - {name}) for name in others]
    ax.set_yticks(range(len(teachers)), names)


def _name_strata(ax: "Axes", names: list[str], width: float) -> None:
    """Above the columns, of so many points each."""
    fits = max(map(len, names)) * 5.5 < width
    shown = [shorten(name, LETTERS, {*names} - {name}) for name in names]
    letters = 9 if fits else min(9.0, 0.9 * width)
    ax.set_xticks(range(len(names)), shown, rotation=0 if fits else 90, fontsize=letters)
    ax.xaxis.tick_top()


def _write_values(ax: "Axes", values: np.ndarray) -> None:
    for t, s in np.argwhere(~np.isnan(values)):
        ax.text(s, t, number(values[t, s]), ha="center", va="center", fontsize=8.5)


def _alt(found: StrataRanking) -> str:
    firsts = [f"{one.stratum}: {one.ranking.teachers[0].teacher}" for one in found.strata[:NAMED]]
    more = len(found.strata) - NAMED
    others = f"; {more} more strata are in the tables" if more > 0 else ""
    return (
        f"Heat map of {len(found.teachers)} teachers in {len(found.strata)} strata of {found.by}. "
        f"First in {'; in '.join(firsts)}{others}. {found.sentence}"
    )
