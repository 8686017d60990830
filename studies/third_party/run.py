"""Converts models of others to int8 and fp16 by `hangtag export`, and records what the gate found."""

import fnmatch
import importlib.metadata
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from hangtag.export.gate import speed
from hangtag.export.repository import inventory
from hangtag.serving.server.runtime.inference_session import VERSION as ONNXRUNTIME_VERSION
from hangtag.serving.server.runtime.session import Runtime
from studies import options, results, training_runs
from studies.third_party.models import MODELS, PACKAGES, ThirdPartyModel

RESULTS = Path(__file__).with_name("results.jsonl")
AGREE_AT_LEAST = {"int8": "99.5", "fp16": "99.9"}
"""Percent of the samples, by precision."""


@click.command()
@click.option("--samples", type=click.IntRange(40), default=1000, show_default=True, help="Of each model.")
@click.option("--search-minutes", type=click.FloatRange(0), default=10, show_default=True, help="As of hangtag export.")
@click.option(
    "--only", default="*", show_default=True, help="Conversions that fit this pattern, such as 'magika int8'."
)
@options.OUT
def main(samples: int, search_minutes: float, only: str, out: Path | None) -> None:
    """Convert the models of two packages to int8 and fp16, and record agreement, layers in FP32, size and speed.

    Needs the packages (make others), and for the times a machine that does nothing else.
    """
    if missing := [model.package for model in MODELS if model.file() is None]:
        raise click.ClickException(f"{' and '.join(missing)} not installed: 'make others' sets up .venv-others.")
    versions = {"ONNX Runtime": ONNXRUNTIME_VERSION} | dict(_versions())
    conditions = results.conditions(f"python -m studies third_party run{options.given()}", versions)
    lines = [conditions | {"instructions": speed.instructions()}]
    for model in MODELS:
        lines += _convert(model, samples, search_minutes, only)
    options.write(out, RESULTS, lines, complete=not options.given())


def _convert(model: ThirdPartyModel, samples: int, search_minutes: float, only: str) -> Iterator[results.Line]:
    """The lines of one model, by precision."""
    precisions = [each for each in AGREE_AT_LEAST if fnmatch.fnmatchcase(f"{model.package} {each}", only)]
    if not precisions:
        return
    original = model.file()
    assert original is not None
    (sample,) = Runtime(original, provider="cpu").signature.inputs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "samples.npz", **{sample.name: model.samples(samples)})  # type: ignore[arg-type]  # numpy's stubs take no mapping
        for precision in precisions:
            arguments = ["import", str(original), "--name", precision, "--precision", precision]
            arguments += ["--calibration", str(folder / "samples.npz"), "--agree-at-least", AGREE_AT_LEAST[precision]]
            arguments += ["--search-minutes", f"{search_minutes:g}"]
            arguments += ["--models", str(folder / "models")]
            training_runs.hangtag(arguments)
        for entry in inventory.serving(folder / "models"):
            gate = entry.json("gate")
            yield {
                "run": f"{model.package} {entry.name}",
                "agreement": gate["agreement"],
                "layers": gate["layers"],
                "fp32_layers": [layer["name"] for layer in entry.json("fp32_layers")],
                "megabytes": entry.path.stat().st_size / 1e6,
                "original_megabytes": original.stat().st_size / 1e6,
                "median_ms": entry.json("speed")["median_ms"],
            }


def _versions() -> Iterator[tuple[str, str]]:
    """The packages' versions in the environment of other programs."""
    folders = [str(folder) for folder in PACKAGES.glob("python3*/site-packages")]
    for model in MODELS:
        for found in importlib.metadata.distributions(name=model.package, path=folders):
            yield model.package, found.version


if __name__ == "__main__":
    main()
