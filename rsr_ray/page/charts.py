"""Charts of the report as inline SVG, drawn by matplotlib. Colours are variables of the page's style sheet, so they follow its theme."""

import io
import re
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from rsr_ray.errors import safe
from rsr_ray.inference import FEWEST
from rsr_ray.report import number, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# matplotlib wants colours of its own; each of these is replaced by a variable of page.css.
INK, FAINT, GRID = "#010203", "#010204", "#010205"
SERIES = [f"#0102{n:02x}" for n in range(16, 24)]
VARIABLES = {INK: "--ink", FAINT: "--faint", GRID: "--grid"} | {colour: f"--series-{n}" for n, colour in enumerate(SERIES)}
STYLE: Any = {
    "svg.fonttype": "none", "path.simplify": False, "svg.hashsalt": "rsr_ray", "text.parse_math": False, "font.family": "sans-serif", "font.size": 10,
    "axes.edgecolor": FAINT, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK, "grid.color": GRID,
    "axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none",
    "figure.facecolor": "none", "legend.frameon": False, "legend.labelcolor": INK,
}  # fmt: skip
MOST = 40  # teachers in one chart
DIRECT = len(SERIES)  # lines that are told apart by colour
ROW = 0.2  # inches: a teacher's line in a chart


@dataclass(frozen=True)
class Size:
    """A chart is drawn twice, because letters that shrink with it cannot be read on a phone; page.css shows one of the two."""

    name: str
    width: float  # inches, of 72 points each
    letters: int  # of a name
    ticks: int


SIZES = (Size("wide", 7.2, 30, 7), Size("narrow", 4.4, 20, 3))


def _draw(height: float, draw: Callable[["Axes", Size], None], name: str, alt: str) -> str:
    import matplotlib

    drawn = []
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the browser has fonts of its own
        from matplotlib.figure import Figure

        for size in SIZES:
            figure = Figure(figsize=(size.width, height), layout="constrained")
            draw(figure.subplots(), size)
            sink = io.StringIO()
            figure.savefig(sink, format="svg", metadata={"Date": None})
            drawn.append(_inline(sink.getvalue(), size.name, f"{name}:{size.name}", alt))
    return "".join(drawn)


def _inline(svg: str, kind: str, name: str, alt: str) -> str:
    """An SVG document as an element of a page: ids and colours are the page's, and it has a text alternative. Texts stay as they are."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    used = {name for tag in re.findall(r"<[^>]*>", svg) for name in re.findall(r'(?:href="#|url\(#)([^")]+)', tag)}

    def change(found: re.Match[str]) -> str:
        tag = re.sub(r' xmlns(:\w+)?="[^"]*"|font-family: [^;"]*;? ?', "", found[0]).replace("xlink:href", "href")
        tag = re.sub(r"(\.\d\d)\d+", r"\1", tag)  # of a point: no screen shows more
        tag = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", tag)
        tag = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", tag)
        return re.sub("#0102[0-9a-f]{2}", lambda m: f"var({VARIABLES[m[0]]})", tag)

    svg = re.sub(r"<[^>]*>", change, svg)
    svg = re.sub(r'<svg width="[^"]*" height="[^"]*"', f'<svg class="{kind}" role="img" aria-labelledby="{name}-title"', svg, count=1)
    return svg.replace(">", f'><title id="{name}-title">{_escaped(alt)}</title>', 1)


def _escaped(text: str) -> str:
    return safe(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def labels(places: dict[str, int], letters: int) -> list[str]:
    """`#place name` of each teacher, in about so many letters."""
    names = [safe(name) for name in places]
    room = letters - len(f"#{max(places.values(), default=0)} ")
    return [f"#{place} {shorten(name, room, {*names} - {name})}" for name, place in zip(names, places.values(), strict=True)]


def shorten(name: str, letters: int, others: Collection[str] = ()) -> str:
    """A name in so many letters: its beginning, and what comes where it parts from the other that is most like it."""
    if len(name) <= letters:
        return name
    same = max((sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(name, other, strict=False))) for other in others), default=0)
    if same + 4 < letters:
        return f"{name[: letters - 1]}…"
    head = letters // 3
    room = letters - head - 1
    start = min(same, len(name) - room)
    return f"{name[:head]}…{shorten(name[start:], room)}"


def _ranked(teachers: list[dict[str, Any]]) -> dict[str, int]:
    """Places of teachers that are in the order of the ranking."""
    return {t["teacher"]: place for place, t in enumerate(teachers, 1)}


def _names_beside(ax: "Axes", teachers: list[dict[str, Any]], size: Size) -> None:
    ax.set_yticks(range(len(teachers)), labels(_ranked(teachers), size.letters))
    ax.set_ylim(len(teachers) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)


def _lines_named(ax: "Axes", lines: list[Any], names: list[str]) -> None:
    """A legend above the chart, where it hides nothing; matplotlib leaves names that begin with _ out of its own."""
    ax.get_figure().legend(lines, names, loc="outside upper left", fontsize=9, ncols=2)  # type: ignore[union-attr]


def whiskers(ranking: dict[str, Any], name: str, axis: str) -> str:
    """Each teacher's value and interval, best first."""
    teachers = ranking["teachers"][:MOST]

    def draw(ax: "Axes", size: Size) -> None:
        for row, t in enumerate(teachers):
            if t["low"] is not None:
                ax.plot([t["low"], t["high"]], [row, row], color=INK, linewidth=2)
            ax.plot(t["value"], row, "o", color=SERIES[0], markersize=6)
        _names_beside(ax, teachers, size)
        ax.set_xlabel(axis)

    return _draw(0.8 + ROW * len(teachers), draw, name, f"Teachers with their {percent(ranking['confidence'])} intervals. {ranking['sentence']}")


def ellipse_radius(n: int, confidence: float) -> float:
    """In standard errors, of the ellipse that holds both means of n prompts: Hotelling's T squared, 1931."""
    return float(np.sqrt(2 * (n - 1) / (n - 2) * stats.f.ppf(confidence, 2, n - 2)))


def plane(points: list[dict[str, Any]], name: str, confidence: float) -> str:
    """Mean surprisal against mean rank of each teacher, an ellipse that holds its true means, and lines of equal rsr.

    `points` have teacher, n, mean [2] and covariance [2][2] of the trajectories' (surprisal, rank).
    """
    points = points[:MOST]

    def draw(ax: "Axes", size: Size) -> None:
        from matplotlib.patches import Ellipse

        for n, point in enumerate(points):
            colour = SERIES[n % len(SERIES)]
            if point["n"] >= FEWEST:
                spread, turn = np.linalg.eigh(np.array(point["covariance"]) / point["n"])
                width, height = 2 * ellipse_radius(point["n"], confidence) * np.sqrt(spread.clip(0))
                angle = np.degrees(np.arctan2(turn[1, 0], turn[0, 0]))
                ax.add_patch(Ellipse(point["mean"], width, height, angle=angle, facecolor=colour, edgecolor=colour, alpha=0.25))
            ax.plot(*point["mean"], "o", color=colour, markersize=6)
        ax.margins(0.15)
        (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
        left, bottom = max(left, 1e-9), max(bottom, 0)
        ratios = np.array([point["mean"][1] / point["mean"][0] for point in points])
        for ratio in np.unique(np.round(np.linspace(ratios.min() * 0.9, ratios.max() * 1.1, 6), 1)):
            ax.axline((0, 0), slope=ratio, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
            beside = ratio * right < top
            x, y = (right, ratio * right) if beside else (top / ratio, top)
            if x >= left and y >= bottom:
                away: dict[str, Any] = {"xytext": (4, 0), "va": "center"} if beside else {"xytext": (0, 2), "ha": "center"}
                ax.annotate(f"rsr {ratio:.1f}", (x, y), textcoords="offset points", fontsize=8, annotation_clip=False, **away)
        ax.set_xlim(left, right)
        ax.set_ylim(bottom, top)
        ax.set_xlabel("mean surprisal, nats a token")
        ax.set_ylabel("mean rank, clipped at r_max")
        _number(ax, [point["mean"] for point in points])

    first = "; ".join(
        f"#{n} {safe(p['teacher'])} has mean surprisal {number(p['mean'][0])} nats and mean rank {number(p['mean'][1])}"
        for n, p in enumerate(points[:3], 1)
    )
    alt = f"Mean surprisal against mean rank of each teacher; dashed lines have equal rsr, lower to the right and below. {first}."
    return _draw(4.8, draw, name, alt)


def _number(ax: "Axes", points: list[list[float]]) -> None:
    """Each point's number beside it, the nearest place where it is on no point and no other number."""
    figure = ax.get_figure()
    assert figure is not None
    figure.draw_without_rendering()  # type: ignore[union-attr]
    at = ax.transData.transform(points) * 72 / figure.dpi
    taken = [(x, y, 4.0, 4.0) for x, y in at]  # centres and half sizes, in points
    turns = np.radians([20, -20, 160, 200, 70, -70, 110, 250])
    for n, (x, y) in enumerate(at, 1):
        half = (3 + 3 * len(str(n)), 5.0)
        steps = [(far * np.cos(turn), far * np.sin(turn)) for far in range(12, 80, 8) for turn in turns]
        free = (step for step in steps if all(_apart((x + step[0], y + step[1], *half), other) for other in taken))
        dx, dy = next(free, steps[0])
        taken.append((x + dx, y + dy, *half))
        line = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3} if np.hypot(dx, dy) > 13 else None
        ax.annotate(
            f"#{n}",
            (points[n - 1][0], points[n - 1][1]),
            xytext=(dx, dy),
            textcoords="offset points",
            fontsize=9,
            ha="center",
            va="center",
            arrowprops=line,
        )


def _apart(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return abs(a[0] - b[0]) > a[2] + b[2] or abs(a[1] - b[1]) > a[3] + b[3]


def boxes(spreads: list[dict[str, Any]], name: str, axis: str) -> str:
    """Of each teacher's trajectories the 5th, 25th, 50th, 75th and 95th percentile."""
    spreads = spreads[:MOST]

    def draw(ax: "Axes", size: Size) -> None:
        kinds = zip(("whislo", "q1", "med", "q3", "whishi"), range(5), strict=True)
        places = list(kinds)
        drawn = [{kind: spread["percentiles"][i] for kind, i in places} | {"fliers": []} for spread in spreads]
        line = {"color": INK}
        ax.bxp(drawn, positions=range(len(drawn)), orientation="horizontal", showfliers=False, patch_artist=True,
               boxprops={"facecolor": SERIES[0], "edgecolor": INK, "alpha": 0.5}, medianprops={"color": INK, "linewidth": 2},
               whiskerprops=line, capprops=line)  # fmt: skip
        _names_beside(ax, spreads, size)
        ax.set_xlabel(axis)

    return _draw(0.8 + ROW * len(spreads), draw, name, "Distribution over trajectories of each teacher: 5, 25, 50, 75 and 95 percent.")


def lengths(ranking: dict[str, Any], sample: tuple[np.ndarray, np.ndarray, np.ndarray], name: str, axis: str) -> str:
    """Length against the metric, of some trajectories."""
    teachers = ranking["teachers"][:DIRECT]
    n_tokens, values, owner = sample

    def draw(ax: "Axes", size: Size) -> None:
        lines, inside = [], np.percentile(values, [1, 99]).tolist()
        for n in range(len(teachers)):
            mine = owner == n
            # Segments of next to no length with round ends: one path, where a mark a point would make half of the page.
            x, y = n_tokens[mine].astype(float), values[mine]
            dots = (np.stack(ends, 1).reshape(-1) for ends in ((x, x * 1.0001, np.full(len(x), np.nan)), (y, y, y)))
            lines += ax.plot(*dots, color=SERIES[n], linewidth=3, solid_capstyle="round", alpha=0.6)
        ax.set_xscale("log")
        least, most = int(n_tokens.min()), int(n_tokens.max())
        ticks = [n * 10**p for p in range(9) for n in (1, 2, 5) if least <= n * 10**p <= most]
        if len(ticks) < 3:
            ticks = np.unique(np.geomspace(least, most, 4).round().astype(int)).tolist()
        ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
        ax.minorticks_off()
        if values.min() > 0:
            ax.set_ylim(min(inside) * 0.9, max(inside) * 1.1)
        ax.set_xlabel("scored tokens of a trajectory")
        ax.set_ylabel(axis)
        _lines_named(ax, lines, labels(_ranked(teachers), size.letters))

    return _draw(4.2, draw, name, "Length of single trajectories against the metric.")


def places(nights: list[dict[str, Any]], name: str) -> str:
    """The place of each teacher over nights; `nights` have night and places {teacher: place or None}, the last at least one place."""
    last = sorted(((place, teacher) for teacher, place in nights[-1]["places"].items() if place), key=lambda item: item[0])[:DIRECT]
    teachers = {teacher: place for place, teacher in last}

    def draw(ax: "Axes", size: Size) -> None:
        for n, (teacher, text) in enumerate(zip(teachers, labels(teachers, size.letters), strict=True)):
            known = [(i, night["places"][teacher]) for i, night in enumerate(nights) if night["places"].get(teacher)]
            ax.plot(*zip(*known, strict=True), "-o", color=SERIES[n])
            ax.annotate(text, known[-1], xytext=(8, -3), textcoords="offset points", fontsize=9, annotation_clip=False)
        step = -(-len(nights) // size.ticks)
        ax.set_xticks(range(0, len(nights), step), [shorten(safe(night["night"]), 12) for night in nights[::step]])
        ax.set_xlim(-0.3, len(nights) - 0.7)
        ax.set_yticks(range(1, max(night["places"].get(t) or 1 for night in nights for t in teachers) + 1))
        ax.invert_yaxis()
        ax.set_ylabel("place (1 is best)")

    said = ", ".join(f"#{place} {safe(teacher)}" for teacher, place in teachers.items())
    return _draw(3.2, draw, name, f"Places of the teachers over the nights. In the last, {safe(nights[-1]['night'])}: {said}.")
