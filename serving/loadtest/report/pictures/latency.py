"""Draws latency under one load: its distribution, and its course over time."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from hangtag.page.drawing import BAD, colour, drawing, latency_axis
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import OpenLoop
from hangtag.serving.loadtest.statistics.duration_histogram import DurationHistogram

_PERCENTILES = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999)


def latency_by_percentile(runs: Sequence[Run], names: Sequence[str]) -> str:
    """Draw each run's latency by percentile, on a scale that is logarithmic in the share above it.

    In an open loop a dotted line adds the service time, which counts from the actual send.
    """
    load = runs[0].load
    with drawing(f"percentiles-{load}", f"Latency by percentile, {load}") as picture:
        axes = picture.axes
        furthest = 0.0
        for run in runs:
            shade = colour(names.index(run.target))
            furthest = max(furthest, _plot_percentiles(axes, run.total.latency, shade, "-"))
            if isinstance(load, OpenLoop):
                _plot_percentiles(axes, run.total.service, shade, ":")
        shown = [q for q in _PERCENTILES if _tail(q) <= max(furthest, 1.0)]
        axes.xaxis.set_major_locator(FixedLocator([_tail(q) for q in shown]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda _, index: f"p{shown[index or 0]:g}"))
        axes.set_xlim(0, max(furthest, 1.0))
        axes.set_xlabel("percentile of queries")
        axes.set_ylabel("latency")
        axes.set_yscale("log")
        latency_axis(axes.yaxis, *axes.get_ylim())
    return picture.svg


def latency_over_time(runs: Sequence[Run], names: Sequence[str]) -> str:
    """Draw p50 (dots) and p99 (rings) of each time slice, joined within a block, and crosses where calls failed."""
    load = runs[0].load
    with drawing(f"time-{load}", f"Latency over time, {load}") as picture:
        axes = picture.axes
        for run in runs:
            shade = colour(names.index(run.target))
            for block in run.blocks:
                answered = [time_slice for time_slice in block.timeline if time_slice.latency]
                middles = [time_slice.start + time_slice.length / 2 for time_slice in answered]
                for q, face, size, style in ((50, shade, 3.2, "-"), (99, "none", 4.0, "--")):
                    values = [time_slice.latency.percentile(q) * 1e3 for time_slice in answered]
                    axes.plot(
                        middles, values, style, color=shade, linewidth=0.8,
                        marker="o", markersize=size, markerfacecolor=face, markeredgewidth=1,
                    )  # fmt: skip
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        slices = [time_slice for run in runs for time_slice in run.total.timeline]
        failed = [time_slice.start + time_slice.length / 2 for time_slice in slices if time_slice.failed]
        axes.scatter(failed, [high] * len(failed), marker="x", s=30, color=BAD, clip_on=False)
        axes.set_ylim(low, high)
        axes.set_xlabel("seconds since the test began")
        axes.set_ylabel("latency")
        latency_axis(axes.yaxis, low, high)
    return picture.svg


def _tail(q: float) -> float:
    """A percentile's position on the axis: each further nine is as wide as the last."""
    return float(-np.log10(1 - q / 100))


def _plot_percentiles(axes: Axes, histogram: DurationHistogram, shade: str, style: str) -> float:
    """Draw a distribution up to its last sample, and return the position of that on the axis."""
    counts = histogram.counts()
    occupied = counts > 0
    if not occupied.any():
        return 0.0
    below = np.cumsum(counts[occupied])
    # No sample lies above the last one, whose position would be infinite: draw it half a sample earlier.
    position = -np.log10(1 - np.minimum(below / below[-1], 1 - 0.5 / below[-1]))
    values = DurationHistogram.values()[occupied] * 1e3
    axes.plot(np.concatenate([[0], position]), np.concatenate([[values[0]], values]), style, color=shade)
    return float(position[-1])
