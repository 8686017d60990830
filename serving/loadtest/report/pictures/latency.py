"""Pictures of latency under one load: its distribution, and its course."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import OpenLoop
from hangtag.serving.loadtest.report.pictures.drawing import BAD, colour, drawing, latency_axis
from hangtag.serving.loadtest.statistics.duration_histogram import DurationHistogram

_PERCENTILES = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999)


def latency_by_percentile(runs: Sequence[Run], names: Sequence[str]) -> str:
    """The latency distribution of each run: percentile (on a log scale of what is above it) against latency.

    In an open loop a dotted line adds the service time, counted from the actual send.
    """
    load = runs[0].load
    with drawing(f"percentiles-{load}", f"Latency by percentile, {load}") as made:
        axes = made.axes
        furthest = 0.0
        for run in runs:
            shade = colour(names.index(run.target))
            furthest = max(furthest, _plot_percentiles(axes, run.total.latency, shade, "-"))
            if isinstance(load, OpenLoop):
                _plot_percentiles(axes, run.total.service, shade, ":")
        shown = [q for q in _PERCENTILES if _tail(q) <= max(furthest, 1.0)]
        axes.xaxis.set_major_locator(FixedLocator([_tail(q) for q in shown]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda _, place: f"p{shown[place or 0]:g}"))
        axes.set_xlim(0, max(furthest, 1.0))
        axes.set_xlabel("percentile of queries")
        axes.set_ylabel("latency")
        axes.set_yscale("log")
        latency_axis(axes.yaxis, *axes.get_ylim())
    return made.svg


def latency_over_time(runs: Sequence[Run], names: Sequence[str]) -> str:
    """p50 (dots) and p99 (rings) of each stretch of the test; crosses where calls failed."""
    load = runs[0].load
    with drawing(f"time-{load}", f"Latency over time, {load}") as made:
        axes = made.axes
        for run in runs:
            shade = colour(names.index(run.target))
            answered = [one for one in run.total.timeline if one.latency]
            middles = [one.start + one.length / 2 for one in answered]
            for q, face, size in ((50, shade, 10), (99, "none", 16)):
                values = [one.latency.percentile(q) * 1e3 for one in answered]
                axes.scatter(middles, values, s=size, facecolors=face, edgecolors=shade, linewidths=1)
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        failed = [one.start + one.length / 2 for run in runs for one in run.total.timeline if one.failed]
        axes.scatter(failed, [high] * len(failed), marker="x", s=30, color=BAD, clip_on=False)
        axes.set_ylim(low, high)
        axes.set_xlabel("seconds since the test began")
        axes.set_ylabel("latency")
        latency_axis(axes.yaxis, low, high)
    return made.svg


def _tail(q: float) -> float:
    """Where a percentile lies on the axis: each nine takes the same room."""
    return float(-np.log10(1 - q / 100))


def _plot_percentiles(axes: Axes, histogram: DurationHistogram, shade: str, style: str) -> float:
    """Draw a distribution up to its last sample; returns how far that is on the axis."""
    counts = histogram.counts()
    seen = counts > 0
    if not seen.any():
        return 0.0
    below = np.cumsum(counts[seen])
    # The last sample has nothing above it: it is drawn where one more sample would begin.
    position = -np.log10(1 - np.minimum(below / below[-1], 1 - 0.5 / below[-1]))
    values = DurationHistogram.values()[seen] * 1e3
    axes.plot(np.concatenate([[0], position]), np.concatenate([[values[0]], values]), style, color=shade)
    return float(position[-1])
