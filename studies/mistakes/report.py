"""Writes docs/mistakes.md: losses that know how bad a mistake is, compared with plain cross-entropy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import click

from studies import results
from studies.mistakes.run import LOSSES, MODEL, PLAIN, RESULTS, SEEDS
from studies.page import Part, render, spread

SEVERITY_GOAL, ACCURACY_GOAL = -10.0, -0.2
"""Percent of the severity with plain cross-entropy, and points of its accuracy."""


@dataclass(frozen=True)
class Row:
    """One loss: the test accuracies (in percent) and mean severities of its runs, in the order of SEEDS."""

    loss: str
    settings: str
    accuracies: Sequence[float]
    severities: Sequence[float]

    @property
    def accuracy(self) -> str:
        return spread(self.accuracies)

    @property
    def severity(self) -> str:
        return spread(self.severities, digits=4)

    def severity_change(self, plain: "Row") -> list[float]:
        """Compared with plain cross-entropy, seed by seed, in percent: below 0 is milder."""
        return [100 * (ours / theirs - 1) for ours, theirs in zip(self.severities, plain.severities, strict=True)]

    def accuracy_change(self, plain: "Row") -> list[float]:
        """Compared with plain cross-entropy, seed by seed, in points."""
        return [ours - theirs for ours, theirs in zip(self.accuracies, plain.accuracies, strict=True)]


@dataclass(frozen=True)
class Trial:
    """One run with other settings of a loss, compared with the plain run of its seed on the validation split."""

    loss: str
    settings: str
    severity: float
    """In percent; below 0 is milder."""
    accuracy: float
    """In points."""


@dataclass(frozen=True)
class Bound:
    """What a shipped model's own probabilities allow. Accuracies and second are in percent."""

    name: str
    mean: float
    nearest: float
    accuracy: float
    accuracy_then: float
    second: float

    @property
    def change(self) -> float:
        """Of the severity, in percent."""
        return 100 * (self.nearest / self.mean - 1)


@dataclass(frozen=True)
class Inputs:
    """All that the page is made from."""

    rows: Sequence[Row]
    trials: Sequence[Trial]
    bounds: Sequence[Bound]
    distances: Mapping[str, str]
    """The model file, and its recipe, whose last layer gives the distances of labels."""


def read(path: Path = RESULTS) -> Inputs:
    """The recorded runs and evaluations.

    Raises:
        click.ClickException: the file is malformed, a run is missing, or two lines cannot be compared because they
            differ in a loss's settings or in the distances of labels.
    """
    lines = results.read(path)
    try:
        groups = {
            group: [line for line in lines.values() if line["group"] == group]
            for group in ("losses", "trials", "shipped")
        }
        runs: dict[str, dict[int, results.Line]] = {loss: {} for loss in (PLAIN, *LOSSES)}
        for line in groups["losses"]:
            loss = line["loss"]["name"] if line["loss"] else PLAIN
            if line["seed"] in runs[loss]:
                raise click.ClickException(f"{path}: {line['run']} is a second run with {loss}, seed {line['seed']}.")
            runs[loss][line["seed"]] = line
        if missing := [f"{loss}, seed {seed}" for loss in runs for seed in SEEDS if seed not in runs[loss]]:
            raise click.ClickException(
                f"{path} lacks {len(missing)} runs of {MODEL}, first with {missing[0]}. "
                "'python -m studies mistakes run' trains them."
            )
        sources = {(line["distances"]["file"], line["distances"]["recipe"]) for line in lines.values()}
        if len(sources) > 1:
            files = ", ".join(sorted(file for file, _ in sources))
            raise click.ClickException(
                f"{path} has severities by different distances of labels ({files}), which cannot be compared. "
                "'python -m studies mistakes run' computes them anew."
            )
        ((file, recipe),) = sources
        return Inputs(
            [_row(loss, [runs[loss][seed] for seed in SEEDS]) for loss in runs],
            [_trial(line, runs[PLAIN][line["seed"]]) for line in groups["trials"]],
            [_bound(line) for line in groups["shipped"]],
            {"file": file, "recipe": recipe},
        )
    except (KeyError, TypeError) as error:
        raise click.ClickException(f"{path} has a line that is no run of this experiment ({error!r}).") from error


def _row(loss: str, lines: Sequence[results.Line]) -> Row:
    settings = {_settings(line["loss"]) for line in lines}
    if len(settings) > 1:
        raise click.ClickException(f"the runs with {loss} differ in settings: {'; '.join(sorted(settings))}.")
    return Row(
        loss,
        settings.pop(),
        [100 * line["test_accuracy"] for line in lines],
        [line["test_severity"] for line in lines],
    )


def _trial(line: results.Line, plain: results.Line) -> Trial:
    severity = 100 * (line["validation_severity"] / plain["validation_severity"] - 1)
    points = 100 * (line["validation_accuracy"] - plain["validation_accuracy"])
    return Trial(line["loss"]["name"], _settings(line["loss"]), severity, points)


def _bound(line: results.Line) -> Bound:
    return Bound(
        line["model"],
        line["severity"],
        line["severity_by_least_distance"],
        100 * line["accuracy"],
        100 * line["accuracy_by_least_distance"],
        100 * line["true_label_second"],
    )


def _settings(loss: Mapping[str, float] | None) -> str:
    return "" if loss is None else f"beta {loss['beta']:g}, weight {loss['weight']:g}"


def page(inputs: Inputs) -> str:
    """The page, in Markdown."""
    plain, *others = inputs.rows
    comparisons = [
        {
            "loss": row.loss,
            "severity": spread(row.severity_change(plain), signed=True),
            "accuracy": spread(row.accuracy_change(plain), signed=True),
            "reached": mean(row.severity_change(plain)) <= SEVERITY_GOAL
            and mean(row.accuracy_change(plain)) >= ACCURACY_GOAL,
        }
        for row in others
    ]
    return render(
        Path(__file__).with_name("page.md.j2"),
        model=MODEL,
        rows=inputs.rows,
        comparisons=comparisons,
        trials=inputs.trials,
        bounds=inputs.bounds,
        distances=inputs.distances,
        seeds=len(SEEDS),
    )


PARTS = (Part("docs/mistakes.md", lambda: page(read())),)
