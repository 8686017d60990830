"""Draws the pictures of the HTML report as SVG. Each model has its own colour and mark (see `hangtag.page.series`)."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from hangtag.page.drawing import BAD, draw_front, drawing, latency_axis, name_point, plain_log_axis
from hangtag.page.series import Look
from hangtag.serving.loadtest.measuring.measured_run import Run
from hangtag.serving.loadtest.plan.load import OpenLoop
from hangtag.serving.loadtest.statistics.durations import DurationHistogram
from hangtag.serving.loadtest.statistics.intervals import Interval

Looks = Mapping[str, Look]
Range = tuple[float, float]
_PERCENTILES = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999)
# The areas of the largest and the smallest mark, in square points.
_LARGEST_MARK, _SMALLEST_MARK = 500.0, 40.0
# The latency axis extends beyond the smallest and the largest estimate by at least this factor. Wider intervals, for
# example from only two blocks that differ, are clipped, because they say only that the latency is uncertain.
_MARGIN = 2.0
# The throughput axis is logarithmic if the largest throughput is more than this many times the smallest.
_LOG_AXIS_RATIO = 5.0


@dataclass(frozen=True)
class ModelPoint:
    """A target in the picture of accuracy against latency."""

    target: str
    accuracy: Interval  # Between 0 and 1.
    latency: Interval  # In seconds.
    beaten: bool = False  # Whether another target is significantly faster or more accurate, and otherwise no worse.
    file_bytes: int = 0  # The size of the model's file; 0 if unknown.


def latency_range(runs: Iterable[Run]) -> Range:
    """Return the ends, in milliseconds, of a latency axis that fits all these runs."""
    ends = [run.total.latency.percentile(q) * 1e3 for run in runs if run.total.latency for q in (0, 100)]
    return 0.9 * min(ends), 1.1 * max(ends)


def accuracy_and_latency(choices: Sequence[ModelPoint], looks: Looks) -> str:
    """Draw accuracy against latency, with 95 % intervals. The area of a mark is proportional to the model's size.

    A dashed line is the Pareto front. The names of targets on this front are above their marks, and all other names are
    below theirs, so that names rarely overlap. Targets that are `beaten` have hollow marks.
    """
    with drawing("pareto", "Accuracy against latency") as picture:
        axes = picture.axes
        front = draw_front(axes, [(each.latency.estimate * 1e3, each.accuracy.estimate * 100) for each in choices])
        largest = max(choice.file_bytes for choice in choices)
        # Small marks are drawn on top of large marks.
        for choice in sorted(choices, key=lambda choice: -choice.file_bytes):
            look = looks[choice.target]
            share = choice.file_bytes / largest if largest else 0.2
            area = max(_LARGEST_MARK * share, _SMALLEST_MARK)
            x, y = choice.latency.estimate * 1e3, choice.accuracy.estimate * 100
            bar: Any = {"color": look.colour, "linewidth": 1, "alpha": 0.5}
            if choice.latency.known:
                axes.plot([choice.latency.low * 1e3, choice.latency.high * 1e3], [y, y], **bar)
            axes.plot([x, x], [choice.accuracy.low * 100, choice.accuracy.high * 100], **bar)
            face = "none" if choice.beaten else look.colour
            axes.scatter(x, y, s=area, facecolor=face, edgecolor=look.colour, marker=look.marker, alpha=0.85, zorder=3)
            name_point(axes, choice.target, (x, y), math.sqrt(area) / 2, look.colour, above=(x, y) in front)
        axes.set_xscale("log")
        estimates = [choice.latency.estimate * 1e3 for choice in choices]
        margin = max((max(estimates) / min(estimates)) ** 0.2, _MARGIN)
        axes.set_xlim(min(estimates) / margin, max(estimates) * margin)
        axes.margins(y=0.2)
        latency_axis(axes.xaxis, *axes.get_xlim())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %" if value <= 100 else ""))
        axes.set_xlabel("p99 latency")
        axes.set_ylabel("accuracy")
    return picture.svg


def throughput_and_latency(runs: Sequence[Run], looks: Looks) -> str:
    """Draw throughput against p50 (solid) and p99 (dashed) of closed loops, with a point for each concurrency."""
    with drawing("throughput", "Throughput against latency") as picture:
        axes = picture.axes
        for name, look in looks.items():
            own = [run for run in runs if run.target == name]
            latencies = [(run.latency(50).total, run.latency(99).total) for run in own]
            _draw_p50_and_p99(axes, [run.throughput for run in own], latencies, look, width=1.2, size=5)
            for run, (_, p99) in zip(own, latencies, strict=True):
                name_point(axes, str(run.load.concurrency), (run.throughput, p99 * 1e3), 2, look.colour)
        axes.margins(x=0.08, y=0.12)
        rates = [run.throughput for run in runs if run.throughput > 0]
        # On a linear throughput axis, all much slower targets would be squeezed together at the left edge.
        if rates and max(rates) > _LOG_AXIS_RATIO * min(rates):
            axes.set_xscale("log")
            plain_log_axis(axes.xaxis, *axes.get_xlim())
        else:
            axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlabel("throughput, calls/s")
        axes.set_yscale("log")
        _latency_scale(axes, axes.get_ylim())
    return picture.svg


def latency_by_percentile(runs: Sequence[Run], looks: Looks, scale: Range, number: int = 0) -> str:
    """Plot each run's latency against the percentile. On the percentile axis, 90 %, 99 % and 99.9 % are evenly spaced.

    For an open loop, a dotted line shows the service time, which is measured from the actual send time. `scale` is the
    range of the latency axis in milliseconds. `number` distinguishes the charts of the same load on one page.
    """
    load = runs[0].load
    with drawing(f"percentiles-{load}-{number}", f"Latency by percentile, {load}") as picture:
        axes = picture.axes
        furthest = 1.0
        for run in runs:
            look = looks[run.target]
            furthest = max(furthest, _plot_percentiles(axes, run.total.latency, look, "-"))
            if isinstance(load, OpenLoop):
                _plot_percentiles(axes, run.total.service_time, look, ":")
        shown = [q for q in _PERCENTILES if _tail(q) <= furthest]
        axes.xaxis.set_major_locator(FixedLocator([_tail(q) for q in shown]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda _, index: f"p{shown[index or 0]:g}"))
        axes.set_xlim(0, furthest)
        axes.set_xlabel("percentile of queries")
        _latency_scale(axes, scale)
    return picture.svg


def latency_over_time(runs: Sequence[Run], looks: Looks, scale: Range) -> str:
    """Draw p50 (filled) and p99 (hollow) of each block, and a cross for a block with failed calls."""
    load = runs[0].load
    with drawing(f"time-{load}", f"Latency over time, {load}") as picture:
        axes = picture.axes
        failed = []
        for run in runs:
            answered = [block for block in run.total.timeline if block.answered]
            latencies = [(block.p50, block.p99) for block in answered]
            middles = [block.start + block.length / 2 for block in answered]
            _draw_p50_and_p99(axes, middles, latencies, looks[run.target], width=0.8, size=3.6)
            failed += [block.start + block.length / 2 for block in run.total.timeline if block.failed]
        _latency_scale(axes, scale)
        axes.scatter(failed, [scale[1]] * len(failed), marker="x", s=30, color=BAD, clip_on=False)
        axes.set_xlabel("seconds since the test began")
    return picture.svg


def _draw_p50_and_p99(
    axes: Axes, places: Sequence[float], latencies: Sequence[Range], look: Look, *, width: float, size: float
) -> None:
    """Draw p50 (filled, solid) and p99 (hollow, dashed), given in seconds, at these places on the x axis."""
    for index, style, face in ((0, "-", look.colour), (1, "--", "none")):
        axes.plot(
            places, [latency[index] * 1e3 for latency in latencies], style, color=look.colour, linewidth=width,
            marker=look.marker, markersize=size, markerfacecolor=face, markeredgewidth=width,
        )  # fmt: skip


def _latency_scale(axes: Axes, scale: Range) -> None:
    axes.set_yscale("log")
    axes.set_ylim(scale)
    axes.set_ylabel("latency")
    latency_axis(axes.yaxis, *axes.get_ylim())


def _tail(q: float) -> float:
    """Return a percentile's position on the axis. The distances from 90 to 99 and from 99 to 99.9 are equal."""
    return float(-np.log10(1 - q / 100))


def _plot_percentiles(axes: Axes, histogram: DurationHistogram, look: Look, style: str) -> float:
    """Draw a distribution up to its last sample, and return the last sample's position on the axis."""
    counts = histogram.counts
    occupied = counts > 0
    if not occupied.any():
        return 0.0
    below = np.cumsum(counts[occupied])
    # The last sample is the quantile 1, whose position on this axis is infinite. Therefore the last of n samples is
    # drawn at the quantile 1 - 1 / (2 n).
    position = np.concatenate([[0], -np.log10(1 - np.minimum(below / below[-1], 1 - 0.5 / below[-1]))])
    values = DurationHistogram.values[occupied] * 1e3
    marked = [int(np.searchsorted(position, _tail(q))) for q in _PERCENTILES[1:] if _tail(q) <= position[-1]]
    axes.plot(
        position, np.concatenate([[values[0]], values]), style, color=look.colour,
        marker=look.marker, markersize=4.5, markevery=marked,
    )  # fmt: skip
    return float(position[-1])
