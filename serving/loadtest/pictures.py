"""The report's pictures, as SVG to be put inside a page: the page's style sheet gives the colours and the font."""

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from serving.loadtest.histogram import Histogram
from serving.loadtest.results import Run
from serving.loadtest.scenario import ClosedLoop, OpenLoop

# Colours that stand for the style sheet's variables: a page in the dark needs others than one in the light.
_INK, _GRID = "#0000f0", "#0000f1"
_SERIES = ("#0000e0", "#0000e1", "#0000e2", "#0000e3", "#0000e4", "#0000e5")
_VARIABLES = {_INK: "--muted", _GRID: "--line"} | {colour: f"--series-{place}" for place, colour in enumerate(_SERIES)}

# Small, so that text keeps its size on a telephone; a wide screen shows two next to each other.
_SIZE = (4.4, 3.0)
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _GRID,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}
_PERCENTILES = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999)


def series_of(place: int) -> str:
    """The style sheet's variable for the place-th model."""
    return _VARIABLES[_colour(place)]


def latency_by_percentile(runs: Sequence[Run], models: Sequence[str]) -> str:
    """The latency distribution of each run: percentile (on a log scale of what is above it) against latency.

    In an open loop a dotted line adds the service time, counted from the actual send.
    """
    with rc_context(_STYLE):
        figure, axes = _figure()
        furthest = 0.0
        for run in runs:
            colour = _colour(models.index(run.model))
            furthest = max(furthest, _plot_percentiles(axes, run.total.latency, colour, "-"))
            if isinstance(run.load, OpenLoop):
                _plot_percentiles(axes, run.total.service, colour, ":")
        shown = [q for q in _PERCENTILES if _tail(q) <= max(furthest, 1.0)]
        axes.xaxis.set_major_locator(FixedLocator([_tail(q) for q in shown]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda _, place: f"p{shown[place or 0]:g}"))
        axes.set_xlim(0, max(furthest, 1.0))
        axes.set_xlabel("percentile of queries")
        axes.set_ylabel("latency")
        _latency_axis(axes)
        return _svg(figure, f"percentiles-{_identifier(runs)}")


def throughput_and_latency(runs: Sequence[Run], models: Sequence[str]) -> str:
    """Closed loops: throughput against p50 (solid) and p99 (dashed), a point for each concurrency."""
    with rc_context(_STYLE):
        figure, axes = _figure()
        for place, model in enumerate(models):
            own = [run for run in runs if run.model == model and isinstance(run.load, ClosedLoop) and run.total.latency]
            throughputs = [run.throughput for run in own]
            for q, style in ((50, "-"), (99, "--")):
                latencies = [run.total.latency.percentile(q) * 1e3 for run in own]
                axes.plot(throughputs, latencies, style, color=_colour(place), marker="o", markersize=4)
                if q == 99:
                    for run, x, y in zip(own, throughputs, latencies, strict=True):
                        assert isinstance(run.load, ClosedLoop)
                        label = str(run.load.concurrency)
                        axes.annotate(label, (x, y), (0, 6), textcoords="offset points", ha="center", fontsize=8)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.margins(x=0.08, y=0.12)
        axes.set_xlim(left=0)
        axes.set_xlabel("throughput, calls/s")
        axes.set_ylabel("latency")
        _latency_axis(axes)
        return _svg(figure, "throughput")


def _colour(place: int) -> str:
    return _SERIES[place % len(_SERIES)]


def _tail(q: float) -> float:
    """Where a percentile lies on the axis: each nine takes the same room."""
    return float(-np.log10(1 - q / 100))


def _plot_percentiles(axes: Axes, histogram: Histogram, colour: str, style: str) -> float:
    """Draw a distribution up to its last sample; returns how far that is on the axis."""
    counts = histogram.counts()
    seen = counts > 0
    if not seen.any():
        return 0.0
    below = np.cumsum(counts[seen])
    # The last sample has nothing above it: it is drawn where one more sample would begin.
    position = -np.log10(1 - np.minimum(below / below[-1], 1 - 0.5 / below[-1]))
    values = Histogram.values()[seen] * 1e3
    axes.plot(np.concatenate([[0], position]), np.concatenate([[values[0]], values]), style, color=colour)
    return float(position[-1])


def _latency_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    # Less than a decade leaves no room for more than its halves and doubles.
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())


def _short(milliseconds: float) -> str:
    if milliseconds < 1:
        return f"{milliseconds * 1e3:g} µs"
    return f"{milliseconds:g} ms" if milliseconds < 1000 else f"{milliseconds / 1e3:g} s"


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _identifier(runs: Sequence[Run]) -> str:
    return re.sub(r"[^a-z0-9]+", "-", str(runs[0].load).lower())


def _svg(figure: Figure, name: str) -> str:
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
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    return f'<svg {box} role="img" aria-label="{name}">{body}'
