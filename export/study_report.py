"""``make docs``: docs/study.md, the study reproduced and what goes past it, from the results files in docs/study/."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
import jinja2

from export import model_pictures, study_pictures
from training.data import LABELS


@dataclass(frozen=True)
class Published:
    """The study's own figures: Keras on a Tesla K80, batch 32, ten epochs, one run, validation split."""

    peak: float
    final: float
    step_ms: float


STUDY = {
    "lstm": Published(0.9024, 0.8996, 13),
    "lstm2": Published(0.9110, 0.9050, 37),
    "cnn": Published(0.9130, 0.9094, 16),
}
HIDDEN_SIZES = {"lstm-56": 56, "lstm": 186, "lstm-280": 280}
GOALS = {"lstm": 0.92, "lstm2": 0.93, "cnn": 0.95}  # of the test accuracy with --recipe best


@dataclass(frozen=True)
class Results:
    """All runs of one model with one recipe, each as its results file has it, in the order of their seeds."""

    runs: Sequence[Mapping[str, Any]]

    def figures(self, *path: str) -> list[float]:
        """A figure of the summary, one for each run."""
        values = []
        for run in self.runs:
            value = run["metrics"]["summary"]
            for key in path:
                value = value[key]
            values.append(float(value))
        return values

    def spread(self, *path: str) -> str:
        """A figure's mean over the runs, and its standard deviation where there are several."""
        values = self.figures(*path)
        if len(values) == 1:
            return _percent(values[0])
        return f"{mean(values) * 100:.2f} ± {stdev(values) * 100:.2f} %"

    def points_above(self, other: "Results") -> str:
        """By how many percentage points the mean peak is above another's."""
        peaks = [mean(results.figures("peak_validation_accuracy")) for results in (self, other)]
        return f"{(peaks[0] - peaks[1]) * 100:.2f}"


def read(folder: Path, recipe: str) -> dict[str, Results]:
    """The results files of one recipe, by model. Trials on a part of the data, and other losses, do not count."""
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text())
        config = result["config"]
        if config["recipe"]["name"] == recipe and config["limit"] is None and not config.get("loss"):
            runs.setdefault(config["model"], []).append(result)
    return {model: Results(found) for model, found in runs.items()}


@click.command()
@click.option("--results", type=click.Path(exists=True, path_type=Path), default=Path("docs/study"), show_default=True)
@click.option(
    "--speed",
    type=click.Path(path_type=Path),
    default=Path("benchmarks/train/results.json"),
    show_default=True,
    help="What `make bench-train` measured.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/study.md"), show_default=True)
def main(results: Path, speed: Path, out: Path) -> None:
    """Write the page about the study and its pictures."""
    study = read(results, "study")
    pictures = out.parent / "images"
    study_pictures.curves(
        {name: [run["metrics"]["epochs"] for run in study[name].runs] for name in STUDY},
        {name: published.peak for name, published in STUDY.items()},
        pictures / "study-curves.svg",
    )
    for name in STUDY:
        confusion = study[name].runs[0]["metrics"]["summary"]["test"]["confusion"]
        model_pictures.confusion_matrix(confusion, LABELS, f"{name}, study", pictures / f"study-confusion-{name}.svg")
    out.write_text(page(results, speed))
    click.echo(f"wrote {out} and {len(STUDY) + 1} pictures in {pictures}")


def page(results: Path, speed: Path) -> str:
    """The page, in Markdown. Without a file about the speed it has no such part."""
    bench = json.loads(speed.read_text()) if speed.is_file() else None
    best = read(results, "best")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)  # noqa: S701  Markdown
    environment.filters["percent"] = _percent
    return environment.from_string(Path(__file__).with_name("study.md.j2").read_text()).render(
        published=STUDY,
        hidden_sizes=HIDDEN_SIZES,
        goals=GOALS,
        study=read(results, "study"),
        best={name: best[name] for name in STUDY if name in best},
        bench=bench,
        published_order=_order({name: published.step_ms for name, published in STUDY.items()}),
        order=bench and _order({name: row["hangtag"] for name, row in bench["median_ms"].items()}),
    )


def _percent(value: float) -> str:
    return f"{value:.2%}".replace("%", " %")


def _order(times: Mapping[str, float]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(times, key=lambda name: times[name]))


if __name__ == "__main__":
    main()
