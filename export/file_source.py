"""Publish a classifier's FP32 file that hangtag exported in another precision, without its run or PyTorch.

At the gate the FP32 file replaces PyTorch, because the file has passed the gate itself, and its digest shows that it is
unchanged.
"""

import json
from pathlib import Path

from hangtag.export.errors import ExportError
from hangtag.export.exporter import Source
from hangtag.export.file import onnx_model
from hangtag.export.gate.reference import Reference, answer, load, softmax
from hangtag.export.gate.tolerances import GATE_IMAGES
from hangtag.export.quantization.precision import model_name
from hangtag.export.third_party import onnx_document
from hangtag.training.runs import data as runs_data
from hangtag.training.runs.config import short_name

# These are written again for the new file. Everything else, such as the provenance and PyTorch's answers, still holds.
_OF_THE_FILE = ("precision", "gate", "parity", "test_accuracy", "speed", "graph_digest")


def is_own(file: Path) -> bool:
    """Whether hangtag exported the file from a run. Raises ExportError if the file cannot be read."""
    return "training" in onnx_model.metadata(onnx_document.read(file))


def of_file(file: Path, data_dir: Path | None, to: str, name: str | None) -> Source:
    """Return the network in a file as a source.

    Args:
        file: the FP32 file.
        data_dir: where the data set of the network's training is now; None for its usual place.
        to: the precision to publish.
        name: the new model's name in the repository, to which the precision is added; None for the network's name.

    Raises:
        ExportError: the file cannot be converted to another precision.
        GateError: the file cannot be loaded.
    """
    original = onnx_document.read(file)
    own = onnx_model.metadata(original)
    if "training" not in own:
        raise ExportError(
            f"{file} was not exported by hangtag from a run. Publish a third-party file with: hangtag import {file} "
            "--name NAME"
        )
    if own.get("graph_digest") != onnx_model.digest(original):
        raise _unusable(
            file, "claims that hangtag trained it, but its graph or weights are not those that were exported"
        )
    for key, wanted in (("precision", "fp32"), ("task", "single_label")):
        if own.get(key, "fp32" if key == "precision" else None) != wanted:
            raise _unusable(file, f"has {key} {own.get(key)}, but other precisions can only be made from {wanted}")
    try:
        config = dict(json.loads(own["training"])["config"])
        network = str(config["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(file, "does not say how it was trained") from error
    data = runs_data.load(config, data_dir)
    if own.get("data_digest") != data.digest:
        raise _unusable(file, f"was trained on another version of the data set {data.name}, so nothing can be proven")
    programs = json.loads(own.get("versions", "{}")) | onnx_model.versions()
    kept = {key: value for key, value in own.items() if key not in _OF_THE_FILE} | {
        "made_of": f"the FP32 file with digest {onnx_model.digest(original)}",
        "versions": json.dumps(programs),
    }
    runtime, test = load(file), data.test.first(GATE_IMAGES)
    return Source(
        name=model_name(name or short_name(network), to),
        precision=to,
        graph=lambda: onnx_model.described(original, kept),
        reference=Reference(
            "the FP32 file",
            runtime.signature.inputs,
            runtime.signature.outputs,
            lambda images: answer(runtime, images),
            softmax,
            temperature=float(own.get("temperature", "1")),
        ),
        labels=tuple(json.loads(own.get("labels", "[]"))),
        image=runtime.signature.image,
        data=data,
        data_digest=data.digest,
        images=test.images,
        classes=test.classes,
        test_images=len(test),
    )


def _unusable(file: Path, why: str) -> ExportError:
    return ExportError(
        f"{file} {why}. Convert it like any third-party file, with: hangtag import {file} --name NAME --precision int8 "
        "--calibration SAMPLES. Nothing was published."
    )
