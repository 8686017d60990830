"""Draws the learning curves of several seeds together with the peaks that the study published."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from studies.pictures import COLOURS, accuracy_axes

Curves = Mapping[str, Sequence[float]]


def learning_curves(runs: Mapping[str, Sequence[Curves]], published_peaks: Mapping[str, float]) -> Figure:
    """Accuracy over epochs, one panel a model: each seed's curve is thin, their mean is thick.

    Args:
        runs: Model -> a curve of train_accuracy and of validation_accuracy for each seed.
        published_peaks: Model -> the study's best validation accuracy.
    """
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    panels = figure.subplots(1, len(runs), sharey=True)
    for axes, (name, seeds) in zip(panels, runs.items(), strict=True):
        epochs = len(seeds[0]["validation_accuracy"])
        for key, colour, label in (
            ("train_accuracy", COLOURS[1], "training, with dropout"),
            ("validation_accuracy", COLOURS[0], "validation"),
        ):
            values = np.array([curves[key] for curves in seeds])  # [seeds, epochs]
            axes.plot(range(1, epochs + 1), values.T, color=colour, alpha=0.35, linewidth=0.8)
            axes.plot(range(1, epochs + 1), values.mean(axis=0), color=colour, marker="o", markersize=3, label=label)
        axes.axhline(published_peaks[name], color="0.4", linestyle="--", linewidth=1, label="study's peak validation")
        accuracy_axes(axes, epochs, f"{name} ({len(seeds)} seed{'s' * (len(seeds) > 1)})")
    panels[0].set_ylabel("accuracy")
    panels[-1].legend(frameon=False, loc="lower right", fontsize=8)
    return figure
