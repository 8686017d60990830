"""Draws the learning curves of the shipped models."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from studies.pictures import COLOURS, accuracy_axes


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
