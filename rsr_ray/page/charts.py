"""Charts of the report as inline SVG, drawn by matplotlib. Colours are variables of the page's style sheet, so they follow its theme."""

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from rsr_ray.errors import safe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# matplotlib wants colours of its own; each of these is replaced by a variable of page.css.
INK, FAINT, GRID = "#010203", "#010204", "#010205"
SERIES = [f"#0102{n:02x}" for n in range(16, 24)]
VARIABLES = {INK: "--ink", FAINT: "--faint", GRID: "--grid"} | {colour: f"--series-{n}" for n, colour in enumerate(SERIES)}
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "rsr_ray", "text.parse_math": False, "font.family": "sans-serif", "font.size": 10,
    "axes.edgecolor": FAINT, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK, "grid.color": GRID,
    "axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none",
    "figure.facecolor": "none", "legend.frameon": False, "legend.labelcolor": INK,
}  # fmt: skip
WIDTH = 7.2  # inches, of 72 points each
MOST = 40  # teachers in one chart
DIRECT = len(SERIES)  # lines that are told apart by colour


def _draw(height: float, draw: Callable[["Axes"], None], name: str, alt: str) -> str:
    import matplotlib

    with matplotlib.rc_context(STYLE):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure.subplots())
        sink = io.StringIO()
        figure.savefig(sink, format="svg", metadata={"Date": None})
    svg = sink.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r'<svg width="[^"]*" height="[^"]*"', f'<svg role="img" aria-labelledby="{name}-title"', svg, count=1)
    return svg.replace(">", f'><title id="{name}-title">{_escaped(alt)}</title>', 1)


def _escaped(text: str) -> str:
    return safe(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def label(name: str, length: int = 30) -> str:
    """A name that fits into a chart."""
    name = safe(name)
    return name if len(name) <= length else f"{name[: length // 2]}…{name[-(length // 2 - 1) :]}"


def _names_beside(ax: "Axes", teachers: list[dict[str, Any]]) -> None:
    ax.set_yticks(range(len(teachers)), [label(t["teacher"]) for t in teachers])
    ax.set_ylim(len(teachers) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)


def whiskers(ranking: dict[str, Any], name: str, axis: str) -> str:
    """Each teacher's value and interval, best first."""
    teachers = ranking["teachers"][:MOST]

    def draw(ax: "Axes") -> None:
        for row, t in enumerate(teachers):
            if t["low"] is not None:
                ax.plot([t["low"], t["high"]], [row, row], color=INK, linewidth=2)
            ax.plot(t["value"], row, "o", color=SERIES[0], markersize=6)
        _names_beside(ax, teachers)
        ax.set_xlabel(axis)

    return _draw(0.8 + 0.26 * len(teachers), draw, name, f"Teachers with their {ranking['confidence']:.0%} intervals. {ranking['sentence']}")


def plane(points: list[dict[str, Any]], name: str, confidence: float) -> str:
    """Mean surprisal against mean rank of each teacher, an ellipse for where its means may lie, and lines of equal rsr.

    `points` have teacher, n, mean [2] and covariance [2][2] of the trajectories' (surprisal, rank).
    """
    points = points[:MOST]
    radius = np.sqrt(stats.chi2.ppf(confidence, 2))

    def draw(ax: "Axes") -> None:
        from matplotlib.patches import Ellipse

        for n, point in enumerate(points):
            colour = SERIES[n % len(SERIES)]
            if point["n"] > 2:
                size, turn = np.linalg.eigh(np.array(point["covariance"]) / point["n"])
                width, height = 2 * radius * np.sqrt(size.clip(0))
                angle = np.degrees(np.arctan2(turn[1, 0], turn[0, 0]))
                ax.add_patch(Ellipse(point["mean"], width, height, angle=angle, facecolor=colour, edgecolor=colour, alpha=0.25))
            ax.plot(*point["mean"], "o", color=colour, markersize=6)
            ax.annotate(f"#{n + 1}", point["mean"], xytext=(5, 3), textcoords="offset points", fontsize=9)
        ax.margins(0.15)
        (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
        left, bottom = max(left, 1e-9), max(bottom, 0)
        ratios = np.array([point["mean"][1] / point["mean"][0] for point in points])
        for ratio in np.unique(np.round(np.linspace(ratios.min() * 0.9, ratios.max() * 1.1, 6), 1)):
            ax.axline((0, 0), slope=ratio, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
            x, y = (right, ratio * right) if ratio * right < top else (top / ratio, top)
            if x >= left and y >= bottom:
                ax.annotate(f"rsr {ratio:.1f}", (x, y), xytext=(-2, -8), textcoords="offset points", ha="right", fontsize=8, color=INK)
        ax.set_xlim(left, right)
        ax.set_ylim(bottom, top)
        ax.set_xlabel("mean surprisal, nats a token")
        ax.set_ylabel("mean rank, clipped at r_max")

    alt = "Mean surprisal against mean rank of each teacher; dashed lines have equal rsr, lower to the right and below."
    return _draw(4.8, draw, name, alt)


def boxes(spreads: list[dict[str, Any]], name: str, axis: str) -> str:
    """Of each teacher's trajectories the 5th, 25th, 50th, 75th and 95th percentile."""
    spreads = spreads[:MOST]

    def draw(ax: "Axes") -> None:
        kinds = zip(("whislo", "q1", "med", "q3", "whishi"), range(5), strict=True)
        places = list(kinds)
        drawn = [{kind: spread["percentiles"][i] for kind, i in places} | {"fliers": []} for spread in spreads]
        line = {"color": INK}
        ax.bxp(drawn, positions=range(len(drawn)), orientation="horizontal", showfliers=False, patch_artist=True,
               boxprops={"facecolor": SERIES[0], "edgecolor": INK, "alpha": 0.5}, medianprops={"color": INK, "linewidth": 2},
               whiskerprops=line, capprops=line)  # fmt: skip
        _names_beside(ax, spreads)
        ax.set_xlabel(axis)

    return _draw(0.8 + 0.26 * len(spreads), draw, name, "Distribution over trajectories of each teacher: 5, 25, 50, 75 and 95 percent.")


def lengths(ranking: dict[str, Any], sample: tuple[np.ndarray, np.ndarray, np.ndarray], name: str, axis: str) -> str:
    """Length against the metric: some trajectories, and each teacher's value in bins of length."""
    teachers, bins = ranking["teachers"][:DIRECT], ranking["length"]["bins"]
    n_tokens, values, owner = sample

    def draw(ax: "Axes") -> None:
        for n, t in enumerate(teachers):
            mine = owner == n
            ax.plot(n_tokens[mine], values[mine], ".", color=SERIES[n], markersize=3, alpha=0.35)
            known = [((b["from"] * b["to"]) ** 0.5, b["values"][n]) for b in bins if b["values"][n] is not None]
            if known:
                ax.plot(*zip(*known, strict=True), "-o", color=SERIES[n], markersize=5, label=label(t["teacher"], 24))
        ax.set_xscale("log")
        ticks = [n * 10**p for p in range(9) for n in (1, 2, 5) if n_tokens.min() <= n * 10**p <= n_tokens.max()]
        ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
        ax.minorticks_off()
        if values.min() > 0:
            ax.set_ylim(np.percentile(values, 1) * 0.9, np.percentile(values, 99) * 1.1)
        ax.set_xlabel("scored tokens of a trajectory")
        ax.set_ylabel(axis)
        ax.legend(fontsize=8, ncols=2)

    return _draw(4.2, draw, name, "Length of trajectories against the metric; lines join each teacher's value in quarters of length.")


def curve(ranking: dict[str, Any], name: str) -> str:
    """The share of random draws of n prompts with the same first, and the same order, as all prompts."""

    def draw(ax: "Axes") -> None:
        sizes = [point["n"] for point in ranking["curve"]]
        for n, (key, text) in enumerate((("same_first", "same first"), ("same_order", "same whole order"))):
            ax.plot(sizes, [point[key] for point in ranking["curve"]], "-o", color=SERIES[n], label=text)
        ax.axhline(0.95, color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
        ax.set_xscale("log")
        ax.set_xticks(sizes, [f"{n:,}" for n in sizes])
        ax.minorticks_off()
        ax.set_ylim(0, 1.05)
        ax.set_xlabel("prompts")
        ax.set_ylabel("share of draws")
        ax.legend()

    return _draw(3.2, draw, name, "How often a smaller sample of prompts gives the same first teacher and the same order.")


def places(nights: list[dict[str, Any]], name: str) -> str:
    """The place of each teacher over nights; `nights` have night and places {teacher: place or None}."""
    teachers = [t for t, place in sorted(nights[-1]["places"].items(), key=lambda item: (item[1] is None, item[1])) if place][:DIRECT]

    def draw(ax: "Axes") -> None:
        for n, teacher in enumerate(teachers):
            known = [(i, night["places"][teacher]) for i, night in enumerate(nights) if night["places"].get(teacher)]
            ax.plot(*zip(*known, strict=True), "-o", color=SERIES[n], label=label(teacher, 24))
            ax.annotate(label(teacher, 22), known[-1], xytext=(8, -3), textcoords="offset points", fontsize=9)
        step = max(1, len(nights) // 6)
        ax.set_xticks(range(0, len(nights), step), [label(night["night"], 12) for night in nights[::step]])
        ax.set_xlim(-0.3, (len(nights) - 1) * 1.35 + 0.3)
        ax.set_yticks(range(1, max(place for night in nights for place in night["places"].values() if place) + 1))
        ax.invert_yaxis()
        ax.set_ylabel("place (1 is best)")

    return _draw(3.2, draw, name, "Places of the teachers over the nights.")
