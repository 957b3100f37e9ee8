"""Matplotlib figures as inline SVG that takes its text and its named colours from the page's style sheet."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any

from edgesea.report.html import Html, text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Matplotlib wants numbers for colours; these stand for variables of the style sheet, which differ in dark mode.
VARIABLES = {
    "ink": "#0a0b01",
    "muted": "#0a0b02",
    "line": "#0a0b03",
    "paper": "#0a0b04",
    "fitted": "#0a0b05",
    "teacher": "#0a0b11",
    "reduced": "#0a0b12",
    "student": "#0a0b13",
}
INK, MUTED, LINE, PAPER, FITTED = (VARIABLES[name] for name in ("ink", "muted", "line", "paper", "fitted"))
# Tol's bright scheme: safe for colour-blind readers, and visible on white and on black.
GROUPS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
WIDTH = 9.6  # inches of a figure as wide as the page
WIDE = "plot wide"  # CSS classes of such a figure


def _style() -> dict[str, Any]:
    return {
        "svg.fonttype": "none",
        "text.parse_math": False,  # a class or sensor may be called $x$
        "font.size": 9.0,
        "font.family": ["DejaVu Sans"],
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": MUTED,
        "axes.linewidth": 0.6,
        "axes.titlesize": 9.0,
        "axes.titlelocation": "left",
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": LINE,
        "grid.linewidth": 0.5,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "xtick.labelsize": 8.0,
        "ytick.labelsize": 8.0,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "legend.frameon": False,
        "legend.fontsize": 8.0,
        "lines.linewidth": 1.6,
    }


@contextmanager
def drawing(name: str, width: float, height: float) -> "Iterator[Figure]":
    """A figure of `width` x `height` inches in the report's style; to be rendered by `inline` within the context.

    Parameters
    ----------
    name : str
        Unique on the page: it keeps the ids of different figures apart.
    width, height : float
        Inches; the page scales the figure to its column.
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", _style(), {"svg.hashsalt": f"edgesea {name}"}]):
        yield Figure(figsize=(width, height), layout="constrained")


def inline(figure: "Figure", description: str) -> Html:
    """The figure as an ``<svg>`` element without ids, links or fonts of its own.

    Parameters
    ----------
    figure : Figure
        From `drawing`.
    description : str
        What it shows, for those who cannot see it.

    Returns
    -------
    Html
    """
    out = StringIO()
    with warnings.catch_warnings():
        # The reader's browser draws the text; that the font used for measuring lacks a script does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") : svg.rindex("</svg>") + len("</svg>")]
    for block in ("metadata", "style"):
        svg = re.sub(rf"<{block}\b.*?</{block}>\s*", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]+)"', svg)
    kind = WIDE if figure.get_figwidth() >= WIDTH else "plot"
    attributes = f'class="{kind}" role="img" aria-label="{text(description)}" viewBox="{box[1] if box else ""}"'
    svg = re.sub(r"<svg\b[^>]*>", lambda _: f"<svg {attributes}>", svg, count=1)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = svg.replace("xlink:href=", "href=")
    # The page chooses the font; sizes stay.
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r'\b(d|x|y|points|transform)="([^"]*)"', _short_numbers, svg)
    for variable, colour in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return Html(re.sub(r"\s*\n\s*", "\n", svg))


def is_wide(svg: Html) -> bool:
    """Whether a figure of `inline` is as wide as the page."""
    return svg.startswith(f'<svg class="{WIDE}"')


def _short_numbers(match: re.Match[str]) -> str:
    """Coordinates to a hundredth of a point: nobody sees more, and the file is half as long."""
    numbers = re.sub(r"(\d+\.\d\d)\d+", r"\1", match[2])
    return f'{match[1]}="{numbers}"'


def label(value: object, length: int = 28) -> str:
    """Text from a file as a label: printable, and shortened in the middle (ids often differ at their end)."""
    shown = "".join(c if c.isprintable() else "?" for c in str(value).encode("utf-8", "replace").decode("utf-8"))
    tail = length // 2
    return shown if len(shown) <= length else f"{shown[: length - 1 - tail]}…{shown[-tail:]}"


def plain_numbers(axis: Any) -> None:
    """Tick labels as plain numbers, also on a logarithmic axis (whose own labels would be formulas)."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def whole_numbers(axis: Any) -> None:
    """Ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))


def legend_above(figure: "Figure", axes: "Axes", most: int = 7) -> None:
    """A legend above everything, where it covers nothing: in one line, or in several of at most `most` entries."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=-(-len(labels) // -(-len(labels) // most)) if labels else 1,
        borderaxespad=0.2,
        handlelength=1.4,
        handletextpad=0.5,
        columnspacing=1.4,
    )
