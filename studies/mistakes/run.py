"""Trains lstm with each loss, evaluates the shipped models, and records how severe the mistakes are."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import click
from PIL import Image

from hangtag.training.labels import distance as label_distance
from hangtag.training.metrics.single_label import mean_severity
from hangtag.training.runs.run import Run
from studies import pictures, results, training_runs
from studies.accuracy.run import STUDY
from studies.training_runs import TrainingRun

RESULTS = Path(__file__).with_name("results.jsonl")
MODEL = "lstm"
PLAIN = "cross-entropy"
LOSSES = ("soft-labels", "embedding-distance")
SEEDS = (0, 1, 2)
SETTINGS = (("1", "0.5"), ("5", "0.9"), ("2", "0.9"))
"""Beta and weight of the trials of other settings, one run each."""
SHIPPED = ("lstm", "lstm2", "cnn")


def _default_settings(loss: str, seed: int) -> TrainingRun:
    return TrainingRun(f"{MODEL}-{loss}-seed{seed}", (MODEL, "--loss", loss, "--seed", str(seed)), "losses")


def _trial(loss: str, beta: str, weight: str) -> TrainingRun:
    arguments = (MODEL, "--loss", loss, "--beta", beta, "--loss-weight", weight)
    return TrainingRun(f"{MODEL}-{loss}-beta{beta}-weight{weight}-seed0", arguments, "trials")


TRAINING_RUNS = (
    *(TrainingRun(run.name, run.arguments, "losses") for run in STUDY if run.arguments[0] == MODEL),
    *(_default_settings(loss, seed) for loss in LOSSES for seed in SEEDS),
    *(_trial(loss, beta, weight) for loss in LOSSES for beta, weight in SETTINGS),
)


def line(run: TrainingRun, trained: Run) -> results.Line:
    """A finished run's line: its loss, accuracy, and the severity of its mistakes by the default distances."""
    config, summary = trained.read_config(), trained.read_metrics()["summary"]
    distances = label_distance.default()
    loss = config["loss"] and {key: config["loss"][key] for key in ("name", "beta", "weight")}
    figures = {"group": run.group, "loss": loss, "seed": config["seed"], "distances": _source(distances.provenance)}
    for split in ("validation", "test"):
        figures[f"{split}_accuracy"] = summary[split]["accuracy"]
        figures[f"{split}_severity"] = mean_severity(summary[split]["confusion"], distances.matrix)
    return figures


def evaluate(model: str) -> results.Line:
    """The line of a shipped model: the severity of its mistakes, and what its own probabilities would allow."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "evaluation.json")
        training_runs.hangtag(["evaluate", f"models/{model}", "--json", str(file)])
        return evaluation_line(model, json.loads(file.read_text()))


def evaluation_line(model: str, document: results.Line) -> results.Line:
    """A line from a document of `hangtag evaluate --json`."""
    severity = document["severity"]
    return {
        "run": f"{model}-evaluation",
        "group": "shipped",
        "model": model,
        "file": document["subject"]["name"],
        "distances": _source(severity["distances"]["provenance"]),
        "accuracy": document["accuracy"],
        "severity": severity["mean"],
        "accuracy_by_least_distance": severity["nearest"]["accuracy"],
        "severity_by_least_distance": severity["nearest"]["mean"],
        "true_label_second": severity["second"],
    }


def _source(provenance: Mapping[str, object]) -> dict[str, object]:
    return {key: provenance[key] for key in ("file", "recipe")}


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--only", default="*", show_default=True, help="Training runs whose names fit this pattern.")
@click.option("--dry-run", is_flag=True, help="Print the commands of the training runs and run none.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="The results file to write lines into.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[-- TRAIN_OPTIONS]")
def main(only: str, dry_run: bool, out: Path, options: tuple[str, ...]) -> None:
    """Train lstm with each loss, evaluate the shipped models, and draw the distances of labels.

    A finished run costs nothing, and a stopped one continues. TRAIN_OPTIONS are options of hangtag train, such as
    -- --threads 2. With --out, nothing is drawn: the pictures are the page's.
    """
    training_runs.train(training_runs.select(TRAINING_RUNS, only), line, RESULTS, out, options, dry_run=dry_run)
    if dry_run:
        return
    for model in SHIPPED:
        results.record(out, evaluate(model))
    if out != RESULTS:
        return
    for source, name in (
        ("training/labels/distances.json", "labels-cnn.png"),
        ("examples/outfits/models/cnn_rnn", "labels-cnn-rnn.png"),
    ):
        file = pictures.FOLDER / name
        training_runs.hangtag(["labels", source, "--picture", str(file)])
        pictures.few_colours(Image.open(file).convert("RGB"), 64).save(file, optimize=True)
