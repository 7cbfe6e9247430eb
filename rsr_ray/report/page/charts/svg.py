"""svg: what matplotlib draws, as inline SVG of the page.

Colours are variables of the page's style sheet, so they follow its theme.
"""

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rsr_ray.errors import safe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# matplotlib wants colours of its own; each of these is replaced by a variable of page.css.
INK, FAINT, GRID = "#010203", "#010204", "#010205"
SERIES = [f"#0102{n:02x}" for n in range(16, 24)]
VARIABLES = {INK: "--ink", FAINT: "--faint", GRID: "--grid"} | {
    colour: f"--series-{n}" for n, colour in enumerate(SERIES)
}
STYLE: Any = {
    "svg.fonttype": "none",
    "path.simplify": False,
    "svg.hashsalt": "rsr_ray",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.labelcolor": INK,
}
MOST = 40  # teachers in one chart
DIRECT = len(SERIES)  # lines that are told apart by colour


@dataclass(frozen=True)
class Size:
    """A chart is drawn twice, because letters that shrink with it cannot be read on a phone;
    page.css shows one of the two.
    """

    name: str
    width: float  # inches, of 72 points each
    letters: int  # of a name
    ticks: int


SIZES = (Size("wide", 7.2, 30, 7), Size("narrow", 4.4, 20, 3))


def draw(height: float, plot: Callable[["Axes", Size], None], name: str, alt: str) -> str:
    """What `plot` draws, as one SVG element per size.

    `height` is in inches, `name` begins the ids, `alt` is the text alternative.
    """
    import matplotlib

    drawn = []
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # the browser has fonts of its own
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        for size in SIZES:
            figure = Figure(figsize=(size.width, height), layout="constrained")
            plot(figure.subplots(), size)
            sink = io.StringIO()
            # `savefig` would draw a figure of this layout twice
            FigureCanvasSVG(figure).print_svg(sink, metadata={"Date": None})
            drawn.append(_inline(sink.getvalue(), size.name, f"{name}:{size.name}", alt))
    return "".join(drawn)


def _inline(svg: str, kind: str, name: str, alt: str) -> str:
    """An SVG document as an element of a page: ids and colours are the page's, and it has a text
    alternative.

    Texts stay as they are.
    """
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    used = {
        target
        for tag in re.findall(r"<[^>]*>", svg)
        for target in re.findall(r'(?:href="#|url\(#)([^")]+)', tag)
    }
    svg = re.sub(r"<[^>]*>", lambda found: _tag_of_page(found[0], name, used), svg)
    svg = re.sub(
        r'<svg width="[^"]*" height="[^"]*"',
        f'<svg class="{kind}" role="img" aria-labelledby="{name}-title"',
        svg,
        count=1,
    )
    return svg.replace(">", f'><title id="{name}-title">{_escaped(alt)}</title>', 1)


def _tag_of_page(tag: str, name: str, used: set[str]) -> str:
    """A tag without namespaces and fonts; `name` goes before the ids, of which only those that are
    `used` stay.
    """
    tag = re.sub(r' xmlns(:\w+)?="[^"]*"|font-family: [^;"]*;? ?', "", tag)
    tag = tag.replace("xlink:href", "href")
    tag = re.sub(r"(\.\d\d)\d+", r"\1", tag)  # of a point: no screen shows more
    tag = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", tag)
    tag = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", tag)
    return re.sub("#0102[0-9a-f]{2}", lambda m: f"var({VARIABLES[m[0]]})", tag)


def _escaped(text: str) -> str:
    return safe(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
