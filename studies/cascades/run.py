"""Tries every threshold of cascades of the shipped models, as they are and with temperatures, on two splits."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from hangtag.evaluation.cascade import members as cascade_members
from hangtag.evaluation.cascade.curve import Curve, Floats
from hangtag.evaluation.cascade.members import Members
from hangtag.evaluation.subject import BATCH_SIZE
from hangtag.export.gate.reference import softmax
from hangtag.export.repository import inventory
from hangtag.serving.server.runtime.inference_session import VERSION as ONNXRUNTIME_VERSION
from hangtag.training.metrics.calibration import fit_temperature
from studies import results
from studies.page import ROOT

RESULTS = Path(__file__).with_name("results.jsonl")
MODELS = ("lstm", "lstm2", "cnn")
CASCADES = (("lstm", "cnn"), MODELS)
SPLITS = ("validation", "test")
CALIBRATED = "with temperatures"
TIMES = "times"
_SMALLEST = 1e-30

_models = click.option(
    "--models", type=click.Path(exists=True, path_type=Path), default=ROOT / "models", help="The repository."
)
_out = click.option("--out", type=click.Path(path_type=Path), default=RESULTS, help="The results file.")


@click.command("run")
@_models
@click.option("--limit", type=click.IntRange(min=1), help="Use the first N images of each split, for quick trials.")
@_out
def main(models: Path, limit: int | None, out: Path) -> None:
    """Let the models answer the validation and the test images, and try every threshold of their cascades.

    Nothing is timed, so the machine may do other things; what an image takes is measured by 'times', whose line stays.
    """
    answered = [cascade_members.measure(models, MODELS, split=split, limit=limit) for split in SPLITS]
    kept = [line for name, line in results.read(out).items() if name == TIMES] if out.exists() else []
    conditions = results.conditions("python -m studies cascades run", {"ONNX Runtime": ONNXRUNTIME_VERSION})
    digests = {name: inventory.find(models, name).metadata["graph_digest"] for name in MODELS}
    results.write(out, [conditions | {"graph_digests": digests}, *lines(answered), *kept])
    click.echo(f"wrote {out}")


@click.command("times")
@_models
@_out
def times(models: Path, out: Path) -> None:
    """Measure what an image takes in each model, in a full batch. Needs a machine that does nothing else."""
    measured = cascade_members.measure(models, MODELS, limit=BATCH_SIZE)
    conditions = results.conditions("python -m studies cascades times", {"ONNX Runtime": ONNXRUNTIME_VERSION})
    microseconds = dict(zip(measured.names, measured.microseconds, strict=True))
    results.record(out, conditions | {"run": TIMES, "microseconds": microseconds})
    click.echo(", ".join(f"{name} {value:,.0f} µs" for name, value in microseconds.items()))
    click.echo(f"wrote {out}; load average before: {conditions['load_before']:.2f}")


def lines(answered: Sequence[Members]) -> list[results.Line]:
    """A line for each cascade, and one for each with the probabilities at temperatures.

    Args:
        answered: MODELS with their answers to each of SPLITS.
    """
    fitted_on = answered[0]
    temperatures = [fit_temperature(_logits(each), fitted_on.classes) for each in fitted_on.answers]
    calibrated = [
        replace(
            split, answers=[softmax(_logits(each) / t) for each, t in zip(split.answers, temperatures, strict=True)]
        )
        for split in answered
    ]
    return [
        {"run": f"{', '.join(names)}{suffix}", "splits": [_curve(split, names) for split in splits]}
        for suffix, splits in (("", answered), (f", {CALIBRATED}", calibrated))
        for names in CASCADES
    ]


def _at(answers: Sequence[Floats], temperatures: Sequence[float]) -> list[Floats]:
    return [softmax(_logits(each) / value) for each, value in zip(answers, temperatures, strict=True)]


def _logits(probabilities: Floats) -> Floats:
    """Logits with this softmax; the model's own differ from them by a constant for each image, which is no matter."""
    return np.log(np.maximum(probabilities.astype(np.float64), _SMALLEST))


def _curve(split: Members, names: Sequence[str]) -> dict[str, Any]:
    for place in reversed([at for at, name in enumerate(split.names) if name not in names]):
        split = split.without(place)
    tried: Curve = split.curve()
    return {
        "images": len(split.classes),
        "alone": list(tried.alone),
        "thresholds": [point.threshold for point in tried.points],
        "reached": [list(point.reached) for point in tried.points],
        "accuracy": [point.accuracy for point in tried.points],
    }
