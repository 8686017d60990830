"""Draws the learning curves of the shipped models, and their accuracy against their speed."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from hangtag.page.labels import Label, place
from studies.pictures import COLOURS, accuracy_axes
from studies.shipped.measured import Measured


def learning_curves(epochs: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Accuracy over epochs, one line a model: a panel for validation, and one for training with dropout.

    Args:
        epochs: Model -> its epochs' figures, which include train_accuracy and validation_accuracy.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, key, title in zip(
        panels, ("validation_accuracy", "train_accuracy"), ("validation", "training, with dropout"), strict=True
    ):
        for (name, rows), colour in zip(epochs.items(), COLOURS, strict=False):
            values = [row[key] for row in rows]
            axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3.5, color=colour, label=name)
            if key == "validation_accuracy":
                best = int(np.argmax(values))
                axes.plot(best + 1, values[best], marker="o", markersize=9, fillstyle="none", color=colour)
        accuracy_axes(axes, max(len(rows) for rows in epochs.values()), title)
    panels[0].set_ylabel("accuracy (ring: the epoch that is kept)")
    panels[1].legend(frameon=False, loc="lower right")
    return figure


def accuracy_and_speed(models: Sequence[Measured]) -> Figure:
    """Test accuracy over p99 latency at one rate, and throughput over p99 latency at rising numbers in flight.

    Args:
        models: Models and routes with runs of closed loops, and one open loop at the same rate for all.
    """
    (rate,) = {load for each in models for load, line in each.runs.items() if line["rate"]}
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    accuracy, throughput = figure.subplots(1, 2)
    labels = []
    for each, colour in zip(models, COLOURS, strict=False):
        p99 = each.run(rate)["latency_s"]["p99"] * 1000
        accuracy.plot(p99, each.accuracy, marker="o", markersize=9, color=colour)
        labels.append(Label(each.title, p99, each.accuracy, radius=4.5, size=10, colour=colour))
        closed = sorted(
            (line for line in each.runs.values() if line["concurrency"]), key=lambda line: line["concurrency"]
        )
        points = [(line["throughput"], line["latency_s"]["p99"] * 1000) for line in closed]
        throughput.plot(*zip(*points, strict=True), marker="o", markersize=4, color=colour, label=each.title)
        for line, point in zip(closed, points, strict=True):
            throughput.annotate(str(line["concurrency"]), point, (0, 5), textcoords="offset points", fontsize=8)
    accuracy.set_title(f"accuracy against latency at {rate}", loc="left", fontsize=10)
    accuracy.set_ylabel("test accuracy")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    accuracy.margins(0.3)
    throughput.set_title("1, 8 and 64 calls in flight", loc="left", fontsize=10)
    throughput.set_xlabel("calls answered a second")
    throughput.set_xscale("log")
    throughput.set_ylabel("p99 latency, ms")
    throughput.set_yscale("log")
    throughput.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    accuracy.set_xlabel("p99 latency, ms")
    accuracy.set_xscale("log")
    for axis in (accuracy.xaxis, throughput.xaxis, throughput.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.set_minor_formatter(NullFormatter())
    for axes in (accuracy, throughput):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    place(accuracy, labels)  # the route has nearly the accuracy of its last member
    return figure
