"""A classifier's FP32 file that hangtag exported, published in another precision without its run and without PyTorch.

The FP32 file takes PyTorch's place at the gate: it has passed the gate itself, and its digest shows that it is
unchanged.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from hangtag.export.errors import ExportError
from hangtag.export.exporter import Source
from hangtag.export.file import onnx_model
from hangtag.export.gate import reference
from hangtag.export.gate.tolerances import GATE_IMAGES
from hangtag.export.third_party import document
from hangtag.training.data.dataset import Dataset

# Written again for the new file; all else, such as the provenance and PyTorch's answers, is as true of it.
_OF_THE_FILE = ("precision", "gate", "parity", "test_accuracy", "speed", "graph_digest")


def is_own(file: Path) -> bool:
    """Whether hangtag exported this ONNX file from a run; False also for what is no ONNX file."""
    return file.is_file() and "training" in onnx_model.metadata(document.read(file))


def config(file: Path) -> Mapping[str, Any]:
    """The config.json of the run that the file was exported from.

    Raises:
        ExportError: it is no ONNX file, is not as hangtag exported it, or is no classifier in FP32.
    """
    try:
        return dict(json.loads(onnx_model.metadata(_read(file))["training"])["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(file, "does not say how it was trained") from error


def of_file(file: Path, data: Dataset, to: str, name: str) -> Source:
    """The network in the file.

    Args:
        file: in FP32.
        data: what it learned from.
        to: the precision to publish it in.
        name: the new model's name in the repository.

    Raises:
        ExportError: the file is none that another precision can be made of.
        GateError: it cannot be loaded.
    """
    original = _read(file)
    own = onnx_model.metadata(original)
    if own.get("data_digest") != data.digest:
        raise _unusable(file, f"was trained on another data set than {data.name} is now, which proves nothing of it")
    programs = json.loads(own.get("versions", "{}")) | onnx_model.versions()
    kept = {key: value for key, value in own.items() if key not in _OF_THE_FILE} | {
        "made_of": f"the FP32 file with digest {onnx_model.digest(original)}",
        "versions": json.dumps(programs),
    }
    images = data.test.images[:GATE_IMAGES]
    return Source(
        name=name,
        precision=to,
        graph=lambda: onnx_model.described(original, kept),
        reference=reference.of_file(file),
        labels=tuple(json.loads(own.get("labels", "[]"))),
        data=data,
        data_digest=data.digest,
        images=images,
        classes=data.test.classes[:GATE_IMAGES],
        test_images=len(images),
    )


def _read(file: Path) -> onnx.ModelProto:
    model = document.read(file)
    metadata = onnx_model.metadata(model)
    if metadata.get("graph_digest") != onnx_model.digest(model):
        raise _unusable(
            file, "names hangtag's training as its origin, but its graph or weights are not those that were exported"
        )
    for key, wanted in (("precision", "fp32"), ("task", "single_label")):
        if metadata.get(key, "fp32" if key == "precision" else None) != wanted:
            raise _unusable(file, f"has {key} {metadata.get(key)}, and another precision is made of {wanted} alone")
    return model


def _unusable(file: Path, why: str) -> ExportError:
    return ExportError(
        f"{file} {why}. Convert it as anybody's file with: hangtag import {file} --name NAME --precision int8 "
        "--calibration SAMPLES. Nothing was published."
    )
