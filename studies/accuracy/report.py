"""``make docs``: docs/study.md, the study reproduced and what goes past it, from the results files in docs/study/."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
import jinja2

from hangtag.training.catalog import recipe_for
from hangtag.training.data.fashion_mnist import LABELS
from studies.accuracy import pictures as study_pictures
from studies.shipped import pictures as model_pictures


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
MULTIPLICATIONS = {"lstm": 4.46e6, "lstm2": 91.5e6, "cnn": 89.47e6}
"""Of one image, forward."""
GOALS = {"lstm": 0.92, "lstm2": 0.93, "cnn": 0.95}  # of the test accuracy with --recipe best

_OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "muon": "Muon"}


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
        """By how many percentage points the mean peak is above another's, with its sign."""
        peaks = [mean(results.figures("peak_validation_accuracy")) for results in (self, other)]
        return f"{(peaks[0] - peaks[1]) * 100:+.2f}"

    def is_above(self, other: "Results") -> bool:
        """Whether the mean test accuracy is above another's."""
        ours, theirs = (mean(results.figures("test", "accuracy")) for results in (self, other))
        return ours > theirs

    def beside(self, goal: float) -> str:
        """A goal of the mean test accuracy, and whether it is reached."""
        lacking = goal - mean(self.figures("test", "accuracy"))
        return f"{_percent(goal)}, " + (f"short by {lacking * 100:.2f} points" if lacking > 0 else "reached")

    @property
    def epochs(self) -> str:
        """How many there were, and how many the recipe has where those are others."""
        config = self.runs[0]["config"]
        ran, own = config["recipe"]["epochs"], recipe_for(config["recipe"]["name"], config["model"]).epochs
        return f"{ran}" if ran == own else f"{ran} of {own}"

    @property
    def optimizer(self) -> str:
        """Its name as its authors write it."""
        return _OPTIMIZERS[self.runs[0]["config"]["recipe"]["optimizer"]]

    @property
    def minutes(self) -> int:
        """How long the first run trained."""
        seconds: float = sum(epoch["seconds"] for epoch in self.runs[0]["metrics"]["epochs"])
        return round(seconds / 60)

    def precisions(self) -> set[str]:
        return {run["config"]["precision"] for run in self.runs}

    @property
    def learned_from(self) -> str:
        """The labels, and the model that the recipe has as its teacher; of several teachers, how many."""
        config = self.runs[0]["config"]
        if not (distillation := config["recipe"].get("distillation")):
            return "labels"
        count = len(config.get("teachers", ()))
        return f"labels and {count} teachers" if count > 1 else f"labels and `{distillation['teacher']}`"


@dataclass(frozen=True)
class Inputs:
    """All that the page is made from: runs by model and recipe; times, if measured."""

    study: Mapping[str, Results]
    best: Mapping[str, Results]
    teachers: Mapping[str, Results]
    before_muon: Mapping[str, Results]  # the same networks with the recipes as they were before Muon
    bf16: Mapping[str, Results]  # with the study's recipe, which elsewhere is FP32
    bench: Mapping[str, Any] | None


def read_all(results: Path, speed: Path) -> Inputs:
    """Raises ClickException for results that do not make the page: lacking, unreadable, or not of the same kind."""
    study, best = read(results, "study"), read(results, "best")
    if lacking := [name for name in {**STUDY, **HIDDEN_SIZES} if name not in study]:
        raise click.ClickException(
            f"{results} has no whole run of {', '.join(lacking)} with recipe study. 'make study' trains them."
        )
    return Inputs(
        study,
        {name: best[name] for name in STUDY if name in best},
        read(results, "teacher"),
        read(results / "before-muon", "teacher") | read(results / "before-muon", "best"),
        read(results / "bf16", "study"),
        _json(speed) if speed.is_file() else None,
    )


def read(folder: Path, recipe: str) -> dict[str, Results]:
    """The results files of one recipe, by model. Trials on a part of the data, and other losses, do not count.

    Raises ClickException where two runs of a model have the same seed, or not the same number of epochs.
    """
    runs: dict[str, dict[int, Mapping[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        result = _json(path)
        try:
            config = result["config"]
            if config["recipe"]["name"] != recipe or config["limit"] is not None or config.get("loss"):
                continue
            same = runs.setdefault(config["model"], {})
            if config["seed"] in same:
                raise click.ClickException(f"{path} is a second run of {config['model']} with seed {config['seed']}.")
            epochs = {run["config"]["recipe"]["epochs"] for run in [*same.values(), result]}
            if len(epochs) > 1:
                raise click.ClickException(
                    f"{path} is of {config['recipe']['epochs']} epochs; other runs of {config['model']} are not. "
                    "They cannot be averaged."
                )
            same[config["seed"]] = result
        except (KeyError, TypeError) as error:
            raise click.ClickException(
                f"{path} is no results file of a run, as python -m studies.accuracy.results writes them ({error!r})."
            ) from error
    return {model: Results([found[seed] for seed in sorted(found)]) for model, found in runs.items()}


@click.command()
@click.option("--results", type=click.Path(exists=True, path_type=Path), default=Path("docs/study"), show_default=True)
@click.option(
    "--speed",
    type=click.Path(path_type=Path),
    default=Path("studies/train_step/results.json"),
    show_default=True,
    help="What `make bench-train` measured.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/study.md"), show_default=True)
def main(results: Path, speed: Path, out: Path) -> None:
    """Write the page about the study and its pictures."""
    inputs = read_all(results, speed)
    pictures = out.parent / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    study_pictures.curves(
        {name: [run["metrics"]["epochs"] for run in inputs.study[name].runs] for name in STUDY},
        {name: published.peak for name, published in STUDY.items()},
        pictures / "study-curves.svg",
    )
    for name in STUDY:
        confusion = inputs.study[name].runs[0]["metrics"]["summary"]["test"]["confusion"]
        model_pictures.confusion_matrix(confusion, LABELS, f"{name}, study", pictures / f"study-confusion-{name}.svg")
    out.write_text(page(inputs))
    click.echo(f"wrote {out} and {len(STUDY) + 1} pictures in {pictures}")


def page(inputs: Inputs) -> str:
    """The page, in Markdown. Without measured times, or without runs with recipe best, it has no such part."""
    bench = inputs.bench
    times = bench and {name: bench["median_ms"][name]["hangtag"] for name in STUDY}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)  # noqa: S701  Markdown
    environment.filters |= {"percent": _percent, "code": _code}
    return environment.from_string(Path(__file__).with_name("page.md.j2").read_text()).render(
        published=STUDY,
        hidden_sizes=HIDDEN_SIZES,
        goals=GOALS,
        study=inputs.study,
        best=inputs.best,
        teachers=inputs.teachers,
        before_muon=inputs.before_muon,
        bench=bench,
        bf16_runs=inputs.bf16,
        multiplications=MULTIPLICATIONS,
        shares=bench and {name: _share(name, bench) for name in STUDY},
        once=[name for name in STUDY if len(inputs.study[name].runs) == 1],
        bf16=[name for name in STUDY if inputs.study[name].precisions() == {"bf16"}],
        published_order=_order({name: published.step_ms for name, published in STUDY.items()}),
        order=times and _order(times),
    )


def _share(name: str, bench: Mapping[str, Any]) -> float:
    """Of the arithmetic that a large matrix product reaches, what a training step does.

    Each multiplication of an answer, and its addition, is done three times: forward, for the gradients of inputs, and
    for those of weights.
    """
    gflops = 3 * 2 * MULTIPLICATIONS[name] * bench["batch_size"] / bench["median_ms"][name]["hangtag"] / 1e6
    return float(gflops / bench["product_gflops"])


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{path} cannot be read ({error}).") from error


def _percent(value: float) -> str:
    return f"{value:.2%}".replace("%", " %")


def _code(names: Sequence[str]) -> str:
    """Names as a sentence has them: `a`, `b` and `c`."""
    *first, last = (f"`{name}`" for name in names)
    return f"{', '.join(first)} and {last}" if first else last


def _order(times: Mapping[str, float]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(times, key=lambda name: times[name]))


if __name__ == "__main__":
    main()
