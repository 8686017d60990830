"""Draw the learning curves of the shipped models, and their accuracy against their speed."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MultipleLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from hangtag.page.drawing import draw_front, name_point
from hangtag.page.series import looks
from studies.pictures import finish
from studies.shipped.speed import Measured

LOWEST = 0.8
"""The lowest accuracy in the chart of learning curves. The lower accuracies of the first epochs are cut off, because
they would leave little room for the other epochs."""
SIZES = {"1 in flight": 3.5, "8 in flight": 6, "64 in flight": 9}
"""The size of the mark in points, for each closed loop of the load test."""


def learning_curves(epochs: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Draw the accuracy over epochs, with a line for each model: a panel for validation, and one for training with
    dropout.

    Args:
        epochs: The figures of each epoch by model, including train_accuracy and validation_accuracy.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, key, title in zip(
        panels, ("validation_accuracy", "train_accuracy"), ("validation", "training, with dropout"), strict=True
    ):
        for (name, rows), look in zip(epochs.items(), looks(epochs).values(), strict=True):
            values = [row[key] for row in rows]
            axes.plot(range(1, len(values) + 1), values, color=look.colour)
            end = (len(values), values[-1])
            validates = key == "validation_accuracy"
            # a validation curve's name is below the curve's end, and a training curve's name is above it
            place_of_name = (4, -3 if validates else 4)
            axes.annotate(name, end, place_of_name, textcoords="offset points", fontsize=9, color=look.colour)
            if validates:
                best = int(np.argmax(values))
                axes.plot(best + 1, values[best], marker="o", markersize=9, fillstyle="none", color=look.colour)
        axes.set_xlabel("epoch")
        axes.set_xlim(0, 1.1 * max(len(rows) for rows in epochs.values()))  # room for the names
        axes.set_ylim(LOWEST, 1)
        axes.yaxis.set_major_locator(MultipleLocator(0.05))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        finish(axes, title, grid="y")
    panels[0].set_ylabel("accuracy (ring: the epoch that is kept)")
    return figure


def accuracy_and_speed(models: Sequence[Measured]) -> Figure:
    """Plot test accuracy against p99 latency at 64 calls in flight, and throughput against it at 1, 8 and 64 calls.

    Args:
        models: Models and routes, each measured in several closed loops.
    """
    figure = Figure(figsize=(12.5, 4.6), layout="constrained")
    accuracy, throughput = figure.subplots(1, 2)
    p99s = [each.runs["64 in flight"]["latency_s"]["p99"] * 1000 for each in models]
    front = draw_front(accuracy, zip(p99s, (each.accuracy for each in models), strict=True), ink="0.5")
    for each, look in zip(models, looks(each.name for each in models).values(), strict=True):
        colour = look.colour
        points = [(line["throughput"], line["latency_s"]["p99"] * 1000) for line in map(each.runs.get, SIZES) if line]
        place = points[-1][1], each.accuracy
        accuracy.plot(*place, marker="o", markersize=9, color=colour)
        name_point(accuracy, each.name, place, 4.5, colour, above=place in front)
        throughput.plot(*zip(*points, strict=True), color=colour, label=each.title)
        for point, size in zip(points, SIZES.values(), strict=True):
            throughput.plot(*point, marker="o", markersize=size, color=colour)
    accuracy.set_ylabel("test accuracy")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    accuracy.margins(0.3)
    accuracy.set_xlabel("p99 latency, ms (dashed: Pareto front)")
    accuracy.set_xscale("log")
    throughput.set_xlabel("calls answered a second")
    throughput.set_xscale("log")
    throughput.set_ylabel("p99 latency, ms")
    throughput.set_yscale("log")
    throughput.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    for axis in (accuracy.xaxis, throughput.xaxis, throughput.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.set_minor_formatter(NullFormatter())
    finish(accuracy, "accuracy against latency with 64 calls in flight")
    finish(throughput, "with 1 (small), 8 and 64 (large) calls in flight")
    return figure
