"""How the report's pictures are drawn: SVG inside a page, whose style sheet gives the colours and the font."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

# Colours that stand for the style sheet's variables: a page in the dark needs others than one in the light.
INK, GRID, BAD = "#0000f0", "#0000f1", "#0000f2"
_SERIES = ("#0000e0", "#0000e1", "#0000e2", "#0000e3", "#0000e4", "#0000e5")
_VARIABLES = {INK: "--muted", GRID: "--line", BAD: "--bad"}
_VARIABLES |= {stand_in: f"--series-{place}" for place, stand_in in enumerate(_SERIES)}

# From this ratio of its ends on, two of 1, 2, 5, 10 ... lie on an axis wherever it begins.
FEW_STEPS = 6.3
MOST_LINES = 4

# Small, so that text keeps its size on a telephone; a wide screen shows two next to each other.
_SIZE = (4.4, 3.0)
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name may have a dollar in it
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


def series_of(place: int) -> str:
    """The style sheet's variable for the place-th model."""
    return _VARIABLES[colour(place)]


def colour(place: int) -> str:
    """What stands for the place-th target's colour."""
    return _SERIES[place % len(_SERIES)]


def latency_axis(axis: Axis, low: float, high: float) -> None:
    """Label a logarithmic axis of latencies in milliseconds, which shows low to high."""
    plain_log_axis(axis, low, high)
    axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def plain_log_axis(axis: Axis, low: float, high: float) -> None:
    """Lines on a logarithmic axis, which shows low to high, where a reader expects them."""
    # Less than two decades leave room for halves and doubles. On less than one there may be none of these, and a
    # LogLocator would then set so many lines that their labels run into each other.
    steps = LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 2.0, 5.0))
    few = high / low < FEW_STEPS
    axis.set_major_locator(MaxNLocator(MOST_LINES, steps=[1, 2, 5, 10]) if few else steps)
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _short(milliseconds: float) -> str:
    if milliseconds < 1:
        return f"{milliseconds * 1e3:g} µs"
    return f"{milliseconds:g} ms" if milliseconds < 1000 else f"{milliseconds / 1e3:g} s"


class Drawing:
    """One picture while it is drawn; `svg` once the context that made it is closed."""

    def __init__(self, figure: Figure, axes: Axes) -> None:
        self.figure = figure
        self.axes = axes
        self.svg = ""


@contextmanager
def drawing(name: str, label: str) -> Iterator[Drawing]:
    """A picture under this name, which is its own in the page, and with this label for those who cannot see it."""
    with rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        FigureCanvasSVG(figure)
        made = Drawing(figure, figure.add_subplot())
        yield made
        made.svg = _svg(figure, identifier(name), label)


def identifier(text: str) -> str:
    """Letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())


def _svg(figure: Figure, name: str, label: str) -> str:
    """The drawing without what only a file of its own needs, its colours as variables, its ids unique in the page."""
    buffer = io.StringIO()
    figure.patch.set_visible(False)
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    head, body = svg.split(">", 1)
    (box,) = re.findall(r'viewBox="[^"]+"', head)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r'xlink:href="#', f'href="#{name}-', body)
    body = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", body)
    for stand_in, variable in _VARIABLES.items():
        body = body.replace(stand_in, f"var({variable})")
    return f'<svg {box} role="img" aria-label="{label}">{body}'
