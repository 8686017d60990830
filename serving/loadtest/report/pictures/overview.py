"""Draws all targets in one picture: accuracy against latency, and throughput against latency."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import FuncFormatter

from hangtag.page.drawing import INK, colour, drawing, latency_axis, plain_log_axis
from hangtag.page.labels import Label, place
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.load import ClosedLoop

# The areas in square points of the largest model's mark, and of the smallest visible mark.
LARGEST_MARK, SMALLEST_MARK = 700.0, 30.0
# Throughputs whose ratio exceeds this are drawn on a logarithmic axis.
LOG_AXIS_RATIO = 5.0


@dataclass(frozen=True)
class ModelPoint:
    """A target to choose from: accuracy (0 to 1), latency (seconds), and its model's size where known."""

    target: str
    accuracy: float
    latency: float
    file_bytes: int | None = None


def pareto_front(choices: Sequence[ModelPoint]) -> list[ModelPoint]:
    """The targets that no other beats in both accuracy and latency, by latency."""
    best: list[ModelPoint] = []
    for choice in sorted(choices, key=lambda choice: (choice.latency, -choice.accuracy)):
        if not best or choice.accuracy > best[-1].accuracy:
            best.append(choice)
    return best


def accuracy_and_latency(choices: Sequence[ModelPoint], names: Sequence[str]) -> str:
    """Draw accuracy against latency. A mark's area is the model's size; a dashed line joins the Pareto front."""
    with drawing("pareto", "Accuracy against latency") as picture:
        axes = picture.axes
        labels = []
        largest = max((choice.file_bytes or 0 for choice in choices), default=0)
        for choice in choices:
            area = max(
                LARGEST_MARK * (choice.file_bytes or 0) / largest if largest else 4 * SMALLEST_MARK, SMALLEST_MARK
            )
            x, y = choice.latency * 1e3, choice.accuracy * 100
            shade = colour(names.index(choice.target))
            axes.scatter([x], [y], s=area, color=shade, alpha=0.75, linewidths=0, zorder=3)
            # A mark's area is that of the square around it.
            labels.append(Label(choice.target, x, y, radius=math.sqrt(area) / 2))
        best = pareto_front(choices)
        axes.plot(
            [choice.latency * 1e3 for choice in best],
            [choice.accuracy * 100 for choice in best],
            "--",
            color=INK,
            linewidth=1,
            zorder=2,
        )
        axes.set_xscale("log")
        axes.margins(0.25)
        low, high = axes.get_xlim()
        latency_axis(axes.xaxis, low, high)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
        axes.set_xlabel("p99 latency")
        axes.set_ylabel("accuracy")
        place(axes, labels)
    return picture.svg


def throughput_and_latency(runs: Sequence[Run], names: Sequence[str]) -> str:
    """Draw the closed loops: throughput against p50 (solid) and p99 (dashed), a point for each concurrency."""
    with drawing("throughput", "Throughput against latency") as picture:
        axes = picture.axes
        labels = []
        for index, name in enumerate(names):
            target_runs = [
                run for run in runs if run.target == name and isinstance(run.load, ClosedLoop) and run.total.latency
            ]
            throughputs = [run.throughput for run in target_runs]
            for q, style in ((50, "-"), (99, "--")):
                latencies = [run.total.latency.percentile(q) * 1e3 for run in target_runs]
                axes.plot(throughputs, latencies, style, color=colour(index), marker="o", markersize=4)
                if q == 99:
                    for run, x, y in zip(target_runs, throughputs, latencies, strict=True):
                        assert isinstance(run.load, ClosedLoop)
                        labels.append(Label(str(run.load.concurrency), x, y, size=8))
        axes.margins(x=0.08, y=0.12)
        rates = [run.throughput for run in runs if run.total.latency and run.throughput > 0]
        # On a linear axis much slower targets would all lie on the left edge.
        if rates and max(rates) > LOG_AXIS_RATIO * min(rates):
            axes.set_xscale("log")
            plain_log_axis(axes.xaxis, *axes.get_xlim())
        else:
            axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlabel("throughput, calls/s")
        axes.set_ylabel("latency")
        axes.set_yscale("log")
        latency_axis(axes.yaxis, *axes.get_ylim())
        place(axes, labels)
    return picture.svg
