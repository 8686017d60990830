"""Writes the part of docs/routes.md about the curve of a cascade, and draws the curve."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from hangtag.evaluation.cascade.curve import Curve, Point
from studies import results
from studies.cascades.run import CALIBRATED, CASCADES, RESULTS, SPLITS, TIMES
from studies.page import Part, percent, table
from studies.pictures import COLOURS, Picture
from studies.shipped.measured import REPOSITORY
from studies.shipped.models import read_all

LOSSES = (0.0, 0.05, 0.1, 0.5)
"""Points of accuracy that a cascade may lose on the validation images."""
_HEAD = ("cascade", "may lose", "at least", "goes on, test", "right, validation", "right, test")
ROUTE = REPOSITORY / "fast-and-accurate/route.toml"
Lines = Mapping[str, results.Line]


def part(path: Path = RESULTS) -> str:
    """The tables. Raises click.ClickException where results are missing, or of other models than those that ship."""
    lines = read(path)
    times = lines.get(TIMES)
    conditions = lines["conditions"]
    images = lines[", ".join(CASCADES[0])]["splits"][0]["images"]
    blocks = [
        f"![Accuracy of cascades](images/{PICTURES[0].file})",
        "The threshold is the lowest that loses no more than so many points of the last model's accuracy on the "
        f"{images:,} validation images; the test images show what comes of it:",
        table([*_HEAD, "cost"] if times else _HEAD, _rows(lines), right=6 if times else 5),
        "Made by `make docs` from [studies/cascades/results.jsonl](../studies/cascades/results.jsonl), measured "
        f"{conditions['date']} by `{conditions['command']}`" + (_timed(times) if times else "."),
    ]  # fmt: skip
    return "\n\n".join(blocks)


def read(path: Path = RESULTS) -> Lines:
    """The results. Raises click.ClickException, as ``part``."""
    lines = results.read(path)
    measured = lines["conditions"]["graph_digests"]
    for model in read_all(REPOSITORY):
        if measured.get(model.name) != model.metadata["graph_digest"]:
            raise click.ClickException(
                f"{path} has no curve of {model.name} version {model.version} as it ships; measure it with "
                "'python -m studies cascades run'."
            )
    return lines


def curves(line: results.Line) -> list[Curve]:
    """The curves on each of SPLITS."""
    return [
        Curve(
            [
                Point(threshold, tuple(reached), accuracy)
                for threshold, reached, accuracy in zip(
                    split["thresholds"], split["reached"], split["accuracy"], strict=True
                )
            ],
            split["alone"],
        )
        for split in line["splits"]
    ]


def picture(lines: Lines) -> Figure:
    """Accuracy over what goes on, and over cost where that was measured. The ring is the route that ships."""
    times = lines.get(TIMES)
    figure = Figure(figsize=(9, 3.6) if times else (6.4, 3.6), layout="constrained")
    panels = figure.subplots(1, 2 if times else 1, squeeze=False)[0]
    two = ", ".join(CASCADES[0])
    shipped = float(tomllib.loads(ROUTE.read_text())["accept"]["at_least"])
    for tried, split, colour in zip(curves(lines[two]), SPLITS, COLOURS, strict=False):
        _draw(panels[0], tried, [point.sent_on for point in tried.points], colour, f"{split} images", shipped)
    panels[0].set_xlabel("share of the images that goes on to cnn")
    panels[0].xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    panels[0].set_title("lstm, then cnn", loc="left", fontsize=10)
    if times:
        for names, colour in zip(CASCADES, COLOURS, strict=False):
            tried = curves(lines[", ".join(names)])[1]
            costs = [point.cost([times["microseconds"][name] for name in names]) for point in tried.points]
            _draw(panels[1], tried, costs, colour, ", ".join(names), shipped if names == CASCADES[0] else None)
        panels[1].set_xlabel("time for an image, of what cnn alone takes")
        panels[1].set_title("test images", loc="left", fontsize=10)
    for axes in panels:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower right", fontsize=8)
    panels[0].set_ylabel("accuracy")
    return figure


def _draw(axes: Axes, tried: Curve, across: Sequence[float], colour: str, label: str, shipped: float | None) -> None:
    accuracy = [point.accuracy for point in tried.points]
    axes.plot(across, accuracy, color=colour, label=label)
    for place, point in enumerate(tried.points):
        if point.threshold == shipped:
            axes.plot(across[place], accuracy[place], "o", markersize=8, fillstyle="none", color=colour)
            axes.annotate(
                f"{shipped:g}", (across[place], accuracy[place]), (4, -13), textcoords="offset points", fontsize=8
            )


def _rows(lines: Lines) -> Iterator[tuple[str, ...]]:
    times = lines.get(TIMES)
    for suffix in ("", f", {CALIBRATED}"):
        for names in CASCADES:
            validation, test = curves(lines[", ".join(names) + suffix])
            for lose in LOSSES:
                chosen = validation.cheapest(lose / 100)
                (tested,) = [point for point in test.points if point.threshold == chosen.threshold]
                cells = (
                    f"`{'`, `'.join(names)}`{suffix}",
                    f"{lose:g}",
                    f"{chosen.threshold:g}",
                    ", ".join(f"{share:.1%}" for share in tested.reached[1:]),
                    percent(chosen.accuracy),
                    percent(tested.accuracy),
                )
                cost = [f"{tested.cost([times['microseconds'][name] for name in names]):.2f}"] if times else []
                yield *cells, *cost


def _timed(times: results.Line) -> str:
    return (
        f", and the times {times['date']} by `{times['command']}` on {times['cpus']} CPUs ({times['processor']}): "
        + ", ".join(f"`{name}` {value:,.0f} µs" for name, value in times["microseconds"].items())
        + " for an image of a full batch. The cost is what an image takes, of what `cnn` alone takes."
    )


PICTURES = (Picture("route-curve.png", lambda: picture(read())),)
PARTS = (Part("docs/routes.md", part, "curve"),)
