"""Learning curves over several seeds, beside what the study published."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from studies.shipped.pictures import COLOURS, save

Epochs = Sequence[Mapping[str, float]]


def curves(runs: Mapping[str, Sequence[Epochs]], published_peaks: Mapping[str, float], path: Path) -> None:
    """Accuracy over epochs, one panel a model: validation and training, each seed thin, their mean strong."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    panels = figure.subplots(1, len(runs), sharey=True)
    for axes, (name, seeds) in zip(panels, runs.items(), strict=True):
        for key, colour, label in (
            ("train_accuracy", COLOURS[1], "training, with dropout"),
            ("validation_accuracy", COLOURS[0], "validation"),
        ):
            values = np.array([[row[key] for row in epochs] for epochs in seeds])  # [seeds, epochs]
            numbers = range(1, values.shape[1] + 1)
            axes.plot(numbers, values.T, color=colour, alpha=0.35, linewidth=0.8)
            axes.plot(numbers, values.mean(axis=0), color=colour, marker="o", markersize=3, label=label)
        axes.axhline(published_peaks[name], color="0.4", linestyle="--", linewidth=1, label="study's peak validation")
        seeds_said = f"{len(seeds)} seeds" if len(seeds) > 1 else "1 seed"
        axes.set_title(f"{name} ({seeds_said})", loc="left", fontsize=10)
        axes.set_xlabel("epoch")
        axes.set_xticks(list(numbers))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy")
    panels[-1].legend(frameon=False, loc="lower right", fontsize=8)
    save(figure, path)
