"""Fits a temperature to each shipped classifier on the validation split, and measures calibration on the test split."""

from pathlib import Path
from typing import Any

import click
import numpy as np

from hangtag.evaluation.file_subject import FileSubject
from hangtag.export.arrays import Array
from hangtag.export.gate.reference import softmax
from hangtag.export.repository import inventory
from hangtag.export.repository.inventory import Entry
from hangtag.serving.server.runtime.inference_session import VERSION as ONNXRUNTIME_VERSION
from hangtag.training.data import fashion_mnist
from hangtag.training.data.dataset import Classes, Dataset
from hangtag.training.metrics.calibration import fit_temperature, reliability
from hangtag.training.metrics.single_label import evaluate
from studies import results
from studies.page import ROOT

RESULTS = Path(__file__).with_name("results.jsonl")


@click.command()
@click.option("--models", type=click.Path(exists=True, path_type=Path), default=ROOT / "models", help="The repository.")
@click.option("--limit", type=click.IntRange(min=1), help="Use the first N images of each split, for quick trials.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="The results file.")
def main(models: Path, limit: int | None, out: Path) -> None:
    """Fit temperatures to the classifiers of a repository by their ONNX files, and measure what they change.

    Nothing is timed, so the machine may do other things.
    """
    data = fashion_mnist.load()
    lines = [results.conditions("python -m studies calibration run", {"ONNX Runtime": ONNXRUNTIME_VERSION})]
    for entry in inventory.serving(models):
        if "training" in entry.metadata and entry.metadata["task"] == "single_label":
            line = measure(entry, data, limit)
            lines.append(line)
            before, after = (f"{line[side]['error']:.2%}" for side in ("before", "after"))
            click.echo(f"{entry.name}: expected calibration error {before}, at {line['temperature']:.3f} {after}")
    results.write(out, lines)
    click.echo(f"wrote {out}")


def measure(entry: Entry, data: Dataset, limit: int | None = None) -> results.Line:
    """The line of one model. Raises ValueError where no temperature fits."""
    validation, test = data.validation.first(limit), data.test.first(limit)
    with FileSubject(entry.path) as subject:
        fitted_on, tested_on = (subject.answer(split.images, _ignore)["logits"] for split in (validation, test))
    temperature = fit_temperature(fitted_on, validation.classes)
    return {
        "run": entry.name,
        "version": entry.version,
        "graph_digest": entry.metadata["graph_digest"],
        "shipped_temperature": entry.metadata.get("temperature"),
        "temperature": temperature,
        "validation_images": len(validation),
        "test_images": len(test),
        "accuracy": evaluate(tested_on, test.classes).accuracy,
        "before": _figures(tested_on, test.classes),
        "after": _figures((tested_on / temperature).astype(np.float32), test.classes),
    }


def _figures(logits: Array, classes: Classes) -> dict[str, Any]:
    probabilities = softmax(logits)
    bins = reliability(probabilities, classes)
    return {
        "error": bins.error,
        "confidence": float(probabilities.max(axis=1).mean()),
        "cross_entropy": evaluate(logits, classes).loss,
        "bins": {key: getattr(bins, key).tolist() for key in ("counts", "confidence", "accuracy")},
    }


def _ignore(_count: int) -> None:
    """FileSubject reports its progress; this study shows none."""
