"""Writes docs/study.md from the recorded runs and the recorded times of a training step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
from matplotlib.figure import Figure

from hangtag.training.catalog import recipe_for
from hangtag.training.data.fashion_mnist import LABELS
from studies import results
from studies.accuracy import pictures
from studies.accuracy.run import RESULTS
from studies.page import Part, percent, render
from studies.pictures import Picture, confusion_matrix
from studies.train_step.run import RESULTS as STEP_TIMES


@dataclass(frozen=True)
class PublishedFigures:
    """The study's own figures: Keras on a Tesla K80, batch 32, ten epochs, one run, validation split."""

    peak: float
    final: float
    step_ms: float


STUDY = {
    "lstm": PublishedFigures(0.9024, 0.8996, 13),
    "lstm2": PublishedFigures(0.9110, 0.9050, 37),
    "cnn": PublishedFigures(0.9130, 0.9094, 16),
}
HIDDEN_SIZES = {"lstm-56": 56, "lstm": 186, "lstm-280": 280}
MULTIPLICATIONS = {"lstm": 4.46e6, "lstm2": 91.5e6, "cnn": 89.47e6}
"""For one image, in the forward pass."""
GOALS = {"lstm": 0.92, "lstm2": 0.93, "cnn": 0.95}
"""Test accuracy with the recipes that learn from teachers."""

_OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "muon": "Muon"}


@dataclass(frozen=True)
class Runs:
    """All recorded runs of one model in one group, in the order of their seeds."""

    lines: Sequence[results.Line]

    @property
    def first(self) -> results.Line:
        return self.lines[0]

    def mean(self, figure: str) -> float:
        return float(mean(line[figure] for line in self.lines))

    def spread(self, figure: str) -> str:
        """A share's mean in percent, and its standard deviation where there are several runs."""
        values = [line[figure] for line in self.lines]
        if len(values) == 1:
            return percent(values[0])
        return f"{mean(values) * 100:.2f} ± {stdev(values) * 100:.2f} %"

    def points_above(self, other: "Runs") -> str:
        """By how many percentage points the mean peak is above the other's, with its sign."""
        peaks = [runs.mean("peak_validation_accuracy") for runs in (self, other)]
        return f"{(peaks[0] - peaks[1]) * 100:+.2f}"

    def is_above(self, other: "Runs") -> bool:
        """Whether the mean test accuracy is above the other's."""
        return self.mean("test_accuracy") > other.mean("test_accuracy")

    def compared_with(self, goal: float) -> str:
        """A goal of the mean test accuracy, and whether it is reached."""
        shortfall = goal - self.mean("test_accuracy")
        return f"{percent(goal)}, " + (f"short by {shortfall * 100:.2f} points" if shortfall > 0 else "reached")

    @property
    def epochs(self) -> str:
        """The number of epochs, and the recipe's own number where that is another."""
        trained, recipe = self.first["epochs"], recipe_for(self.first["recipe"], self.first["model"]).epochs
        return f"{trained}" if trained == recipe else f"{trained} of {recipe}"

    @property
    def optimizer(self) -> str:
        """The optimizer's name as its authors write it."""
        return _OPTIMIZERS[self.first["optimizer"]]

    @property
    def minutes(self) -> int:
        """The training time of the first run."""
        return round(float(self.first["seconds"]) / 60)

    @property
    def precisions(self) -> set[str]:
        return {line["precision"] for line in self.lines}

    @property
    def learned_from(self) -> str:
        """The labels, and the teachers by their models' names."""
        teachers = [f"{count} `{name}`" if count > 1 else f"`{name}`" for name, count in self.first["teachers"].items()]
        return " and ".join(["labels", *teachers]) if len(teachers) < 2 else f"labels, {' and '.join(teachers)}"


Groups = Mapping[str, Mapping[str, Runs]]


def read(path: Path = RESULTS) -> Groups:
    """The recorded runs by group and model.

    Raises:
        click.ClickException: the file is malformed, two runs of a model have the same seed or different numbers of
            epochs, or the study has no run of a network.
    """
    groups: dict[str, dict[str, dict[int, results.Line]]] = {}
    for name, line in results.read(path).items():
        try:
            runs = groups.setdefault(line["group"], {}).setdefault(line["model"], {})
            seed, epochs = line["seed"], line["epochs"]
        except KeyError as error:
            raise click.ClickException(f"{path}: the run {name} lacks {error}.") from error
        if seed in runs:
            raise click.ClickException(f"{path}: {name} is a second run of {line['model']} with seed {seed}.")
        if any(run["epochs"] != epochs for run in runs.values()):
            raise click.ClickException(
                f"{path}: {name} has {epochs} epochs, other runs of {line['model']} have another number. "
                "They cannot be averaged."
            )
        runs[seed] = line
    if missing := [model for model in {**STUDY, **HIDDEN_SIZES} if model not in groups.get("study", {})]:
        raise click.ClickException(
            f"{path} has no run of {', '.join(missing)} with recipe study. "
            "'python -m studies accuracy run' trains them."
        )
    return {
        group: {model: Runs([runs[seed] for seed in sorted(runs)]) for model, runs in models.items()}
        for group, models in groups.items()
    }


def read_step_times(path: Path = STEP_TIMES) -> Mapping[str, Any] | None:
    """The recorded times of a training step, with the conditions of their measurement; None where there are none."""
    if not path.exists():
        return None
    lines = results.read(path)
    return lines.pop("conditions") | {"models": lines}


def page(groups: Groups, times: Mapping[str, Any] | None) -> str:
    """The page, in Markdown. It has no part about times, or about the best recipes, where none are recorded."""
    study = groups["study"]
    steps = times and {name: times["models"][name]["median_ms"]["hangtag"] for name in STUDY}
    best = groups.get("best", {})
    return render(
        Path(__file__).with_name("page.md.j2"),
        published=STUDY,
        hidden_sizes=HIDDEN_SIZES,
        goals=GOALS,
        study=study,
        best={name: best[name] for name in STUDY if name in best},
        same_view=groups.get("same-view", {}),
        ended_early=groups.get("same-view-ended-early", {}),
        teachers=groups.get("teacher", {}),
        before_muon=groups.get("before-muon", {}),
        times=times,
        bf16_runs=groups.get("bf16", {}),
        multiplications=MULTIPLICATIONS,
        shares=times and {name: _share(name, times) for name in STUDY},
        once=[name for name in STUDY if len(study[name].lines) == 1],
        bf16=[name for name in STUDY if study[name].precisions == {"bf16"}],
        published_order=_order({name: published.step_ms for name, published in STUDY.items()}),
        order=steps and _order(steps),
    )


def _share(name: str, times: Mapping[str, Any]) -> float:
    """The arithmetic of a training step as a share of what a large matrix product reaches in the same time.

    Each multiplication of an answer, and its addition, is done three times: forward, for the gradients of inputs, and
    for those of weights.
    """
    operations = 3 * 2 * MULTIPLICATIONS[name] * times["batch_size"]
    gflops = operations / times["models"][name]["median_ms"]["hangtag"] / 1e6
    return float(gflops / times["product_gflops"])


def _order(times: Mapping[str, float]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(times, key=lambda name: times[name]))


def _curves() -> Figure:
    study = read()["study"]
    return pictures.learning_curves(
        {name: [line["curves"] for line in study[name].lines] for name in STUDY},
        {name: published.peak for name, published in STUDY.items()},
    )


def _confusion(name: str) -> Figure:
    return confusion_matrix(read()["study"][name].first["confusion"], LABELS, f"{name}, study")


PARTS = (Part("docs/study.md", lambda: page(read(), read_step_times())),)
PICTURES = (
    Picture("study-curves.png", _curves),
    *(Picture(f"study-confusion-{name}.png", partial(_confusion, name)) for name in STUDY),
)
