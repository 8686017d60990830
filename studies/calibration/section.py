"""Makes the section about calibration of docs/models.md, and draws its picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from studies import results
from studies.calibration.run import RESULTS
from studies.page import code, percent, table
from studies.pictures import COLOURS
from studies.shipped.models import ShippedModel

FEWEST = 10
"""Bins of fewer images are not drawn: their accuracy is chance."""
SURE, OTHERS = slice(-1, None), slice(None, -1)
_HEAD = ("model", "accuracy", "mean confidence", "expected calibration error", "cross-entropy", "temperature")
_APART = ("model", "temperature", "sure: share", "confidence, accuracy", "others: share", "confidence, accuracy")


def lines_of(models: Sequence[ShippedModel], path: Path = RESULTS) -> list[str]:
    """The lines of the section.

    Args:
        models: Those that ship, in the page's order.

    Raises:
        click.ClickException: A shipped file was not measured, or is another one than the one that was.
    """
    lines, conditions = read(models, path), results.read(path)["conditions"]
    edge = percent(1 - 1 / len(lines[0]["before"]["bins"]["counts"]))
    return [
        "## Calibration",
        "",
        "A model is calibrated if nine in ten of the answers to which it gives a probability of 90 % are right. "
        f"{_verdict(lines)} "
        "A temperature is one number, fitted on the validation images, by which the logits are divided before the "
        "softmax; [`hangtag export --calibrate`](export.md#calibration) makes it part of a file. "
        f"{_shipped(lines)} The {lines[0]['test_images']:,} test images without it → with it:",
        "",
        table(_HEAD, [_row(line) for line in lines], right=5),
        "",
        "The expected calibration error is the mean distance of confidence and accuracy in 15 bins of equal width. "
        f"The answers with a confidence above {edge}, the highest bin, and the others apart:",
        "",
        table(_APART, [row for line in lines for row in _apart(line)], right=4),
        "",
        *_caution(lines),
        "Made by `make docs` from [studies/calibration/results.jsonl](../studies/calibration/results.jsonl), measured "
        f"{conditions['date']} by `{conditions['command']}` from the files themselves.",
        "",
        "![Reliability diagram](images/reliability.png)",
        "",
    ]


def read(models: Sequence[ShippedModel], path: Path = RESULTS) -> list[results.Line]:
    """The results of these models' files. Raises click.ClickException where one was not measured."""
    lines = results.read(path)
    for model in models:
        measured = lines.get(model.name, {}).get("graph_digest")
        if measured != model.metadata["graph_digest"]:
            raise click.ClickException(
                f"{path} has no calibration of {model.name} version {model.version} as it ships; measure it with "
                "'python -m studies calibration run'."
            )
    return [lines[model.name] for model in models]


def diagram(lines: Sequence[results.Line]) -> Figure:
    """Accuracy over confidence, a panel for each model; on the diagonal a model is calibrated."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = figure.subplots(1, len(lines), sharey=True, squeeze=False)[0]
    for axes, line in zip(panels, lines, strict=True):
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--")
        for side, colour, label in (
            ("before", COLOURS[0], "as trained"),
            ("after", COLOURS[2], f"temperature {line['temperature']:.2f}"),
        ):
            bins = line[side]["bins"]
            points = [
                (confidence, accuracy)
                for count, confidence, accuracy in zip(*(bins[key] for key in bins), strict=True)
                if count >= FEWEST
            ]
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3.5, color=colour, label=label)
        axes.set_title(f"{line['run']} version {line['version']}", loc="left", fontsize=10)
        axes.set_xlabel("confidence")
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper left", fontsize=8)
        axes.set_xlim(0.2, 1)
        axes.set_ylim(0, 1.02)
    panels[0].set_ylabel("accuracy")
    return figure


def _row(line: results.Line) -> tuple[str, ...]:
    before, after = line["before"], line["after"]
    return (
        f"`{line['run']}` version {line['version']}",
        percent(line["accuracy"]),
        f"{percent(before['confidence'])} → {percent(after['confidence'])}",
        f"{percent(before['error'])} → {percent(after['error'])}",
        f"{before['cross_entropy']:.4f} → {after['cross_entropy']:.4f}",
        f"{line['temperature']:.3f}",
    )


@dataclass(frozen=True)
class Group:
    """Some of a model's answers: their share of all, their mean confidence, and the share of them that is right."""

    share: float
    confidence: float
    accuracy: float

    @classmethod
    def of(cls, bins: results.Line, places: slice) -> "Group":
        """The answers in these bins."""
        counts = np.array(bins["counts"])
        chosen = counts[places]
        means = (float(np.array(bins[key])[places] @ chosen / chosen.sum()) for key in ("confidence", "accuracy"))
        return cls(float(chosen.sum() / counts.sum()), *means)

    def __str__(self) -> str:
        return f"{self.confidence:.1%}, {self.accuracy:.1%}"


def _apart(line: results.Line) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for side, temperature in (("before", "none"), ("after", f"{line['temperature']:.3f}")):
        sure, others = (Group.of(line[side]["bins"], places) for places in (SURE, OTHERS))
        cells = (f"{sure.share:.1%}", str(sure), f"{others.share:.1%}", str(others))
        rows.append((f"`{line['run']}` version {line['version']}", temperature, *cells))
    return rows


def _caution(lines: Sequence[results.Line]) -> list[str]:
    """What to think of a temperature that mends the sure answers alone; empty if it is not so for all models."""
    for line in lines:
        before, after = (Group.of(line[side]["bins"], OTHERS) for side in ("before", "after"))
        if abs(after.confidence - after.accuracy) <= abs(before.confidence - before.accuracy):
            return []
    return [
        "So the temperature mends the sure answers, which are most, and makes the others too sure of themselves: one "
        "number cannot do both. A user who looks at the doubtful answers is better served without it.",
        "",
    ]


def _verdict(lines: Sequence[results.Line]) -> str:
    """Which models are more often right than they say, and which less often."""
    sentences = []
    for often, chosen in (
        ("more", [line for line in lines if _surplus(line) >= 0]),
        ("less", [line for line in lines if _surplus(line) < 0]),
    ):
        if chosen:
            furthest = f"{'up to ' if len(chosen) > 1 else ''}{100 * max(abs(_surplus(line)) for line in chosen):.1f}"
            are, their = ("are", "their") if len(chosen) > 1 else ("is", "its")
            sentences.append(
                f"{code([line['run'] for line in chosen])} {are} right {often} often than {their} probabilities say, "
                f"by {furthest} points on average."
            )
    return " ".join(sentences)


def _surplus(line: results.Line) -> float:
    surplus: float = line["accuracy"] - line["before"]["confidence"]
    return surplus


def _shipped(lines: Sequence[results.Line]) -> str:
    having = [line["run"] for line in lines if line["shipped_temperature"]]
    if not having:
        return "The files that ship have none."
    return f"Of the files that ship, those of {code(having)} have one."
