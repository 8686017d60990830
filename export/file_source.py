"""A classifier's FP32 file that hangtag exported, published in another precision without its run and without PyTorch.

The FP32 file takes PyTorch's place at the gate: it has passed the gate itself, and its digest shows that it is
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
from hangtag.export.third_party import document
from hangtag.training.runs import data as runs_data

# Written again for the new file; all else, such as the provenance and PyTorch's answers, is as true of it.
_OF_THE_FILE = ("precision", "gate", "parity", "test_accuracy", "speed", "graph_digest")


def of_file(file: Path, data_dir: Path | None, to: str, name: str | None) -> Source:
    """The network in the file.

    Args:
        file: in FP32.
        data_dir: where the data set is now that it learned from; None for its usual place.
        to: the precision to publish it in.
        name: the new model's name in the repository; None for the network's, with the precision.

    Raises:
        ExportError: the file is none that another precision can be made of.
        GateError: it cannot be loaded.
    """
    original = document.read(file)
    own = onnx_model.metadata(original)
    if "training" not in own:
        raise ExportError(
            f"{file} was not exported by hangtag from a run. Publish somebody else's file with: hangtag import {file} "
            "--name NAME"
        )
    if own.get("graph_digest") != onnx_model.digest(original):
        raise _unusable(
            file, "names hangtag's training as its origin, but its graph or weights are not those that were exported"
        )
    for key, wanted in (("precision", "fp32"), ("task", "single_label")):
        if own.get(key, "fp32" if key == "precision" else None) != wanted:
            raise _unusable(file, f"has {key} {own.get(key)}, and another precision is made of {wanted} alone")
    try:
        config = dict(json.loads(own["training"])["config"])
        network = str(config["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(file, "does not say how it was trained") from error
    data = runs_data.load(config, data_dir)
    if own.get("data_digest") != data.digest:
        raise _unusable(file, f"was trained on another data set than {data.name} is now, which proves nothing of it")
    programs = json.loads(own.get("versions", "{}")) | onnx_model.versions()
    kept = {key: value for key, value in own.items() if key not in _OF_THE_FILE} | {
        "made_of": f"the FP32 file with digest {onnx_model.digest(original)}",
        "versions": json.dumps(programs),
    }
    runtime, images = load(file), data.test.images[:GATE_IMAGES]
    return Source(
        name=name or model_name(network, to),
        precision=to,
        graph=lambda: onnx_model.described(original, kept),
        reference=Reference(
            "the FP32 file",
            "fp32 file",
            runtime.signature.inputs,
            runtime.signature.outputs,
            lambda images: answer(runtime, images),
            softmax,
            temperature=float(own.get("temperature", "1")),
        ),
        labels=tuple(json.loads(own.get("labels", "[]"))),
        data=data,
        data_digest=data.digest,
        images=images,
        classes=data.test.classes[:GATE_IMAGES],
        test_images=len(images),
    )


def _unusable(file: Path, why: str) -> ExportError:
    return ExportError(
        f"{file} {why}. Convert it as anybody's file with: hangtag import {file} --name NAME --precision int8 "
        "--calibration SAMPLES. Nothing was published."
    )
