"""Draws pictures with matplotlib as inline SVG. The page's style sheet sets the colours and the font."""

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

# The style sheet's variables with their light-mode colours, which precede the dark-mode colours in the sheet. Pictures
# are drawn in these colours, and a page replaces each with its CSS variable, so that dark mode can use other colours.
_SHEET = resources.files("hangtag.page").joinpath("templates/style.css").read_text()
_VARIABLES: dict[str, str] = dict(reversed(re.findall(r"(--(?:muted|line|bad|series-\d)): (#\w{6});", _SHEET)))
INK, GRID, BAD = (_VARIABLES[name] for name in ("--muted", "--line", "--bad"))
SERIES = [name for name in sorted(_VARIABLES) if name.startswith("--series-")]
COLOURS = [_VARIABLES[name] for name in SERIES]

# If the largest value of an axis is at least this many times the smallest value, the axis contains two or more of the
# ticks 1, 2, 5, 10 and so on.
MIN_LOG_RATIO = 6.3
MOST_LINES = 4
# An axis of many decades has room for this many labels, even for labels as long as "1000 µs" and "10000 s".
MOST_DECADES = 5

# The size of a picture in inches. The picture is small so that its text is readable on a phone. A wide screen shows
# two pictures side by side.
SIZE = (4.4, 3.0)
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hangtag",  # with a fixed salt, matplotlib generates the same ids for the same drawing
    "text.parse_math": False,  # the name of a target may contain a dollar sign
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def draw_front(axes: Axes, points: Iterable[tuple[float, float]], ink: str = INK) -> list[tuple[float, float]]:
    """Draw a dashed line along the Pareto front of points (cost, value): low cost and high value are better. Return
    the points on the front, in ascending order of cost."""
    front: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    axes.plot(*zip(*front, strict=True), "--", color=ink, linewidth=1, zorder=1)
    return front


def name_point(
    axes: Axes, name: str, point: tuple[float, float], radius: float, ink: str, *, above: bool = True
) -> None:
    """Write a name above or below a point. ``radius`` is the radius of the point's mark, in units of 1/72 inch."""
    distance, edge = (radius + 2, "bottom") if above else (-radius - 2, "top")
    place: Any = {"textcoords": "offset points", "ha": "center", "va": edge}
    axes.annotate(name, point, (0, distance), fontsize=8, color=ink, zorder=4, **place)


def latency_axis(axis: Axis, low: float, high: float) -> None:
    """Label a logarithmic axis that shows latencies from `low` to `high`, in milliseconds."""
    plain_log_axis(axis, low, high)
    seconds = EngFormatter("s")
    axis.set_major_formatter(FuncFormatter(lambda value, _: seconds(value / 1e3)))


def plain_log_axis(axis: Axis, low: float, high: float) -> None:
    """Set grid lines at round values on a logarithmic axis from `low` to `high`."""
    # An axis of up to two decades has room for ticks at 1, 2 and 5 times each power of ten. If an axis is
    # too short for two of these ticks, a LogLocator would add so many others that their labels overlap.
    steps = LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 2.0, 5.0), numticks=MOST_DECADES)
    few = high / low < MIN_LOG_RATIO
    axis.set_major_locator(MaxNLocator(MOST_LINES, steps=[1, 2, 5, 10]) if few else steps)
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


@dataclass
class Drawing:
    """A picture. The attribute `svg` is empty until the context of `drawing` ends."""

    axes: Axes
    svg: str = ""


@contextmanager
def drawing(name: str, label: str, size: tuple[float, float] = SIZE) -> Iterator[Drawing]:
    """Yield an empty picture, and convert it to SVG when the context ends. ``size`` is in inches, ``name`` makes the
    picture's ids unique in the page, and ``label`` describes the picture for screen readers."""
    with rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        picture = Drawing(figure.subplots())
        yield picture
        picture.svg = _svg(figure, re.sub(r"[^a-z0-9]+", "-", name.lower()), label)


def _svg(figure: Figure, name: str, label: str) -> str:
    """Return the figure as an inline SVG with unique ids, with variables for colours, and without metadata."""
    buffer = io.StringIO()
    figure.patch.set_visible(False)
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    head, body = svg.split(">", 1)
    (box,) = re.findall(r'viewBox="[^"]+"', head)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r'xlink:href="#', f'href="#{name}-', body)
    body = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", body)
    for variable, colour in _VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    return f'<svg {box} role="img" aria-label="{label}">{body}'
