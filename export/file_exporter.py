"""Publish another precision of a classifier's FP32 file that hangtag exported. Needs neither its run nor PyTorch.

The FP32 file takes PyTorch's place at the gate: it has passed the gate itself, and its digest shows that it is
unchanged.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from hangtag.export import predecessors
from hangtag.export.errors import ExportError
from hangtag.export.file import onnx_model
from hangtag.export.file.versions import versions
from hangtag.export.gate import file_gate, processor, speed
from hangtag.export.gate.proof import GateData
from hangtag.export.published import Published
from hangtag.export.quantization import precision
from hangtag.export.repository.publishing import publish
from hangtag.export.third_party import document
from hangtag.serving.server.runtime.session import Runtime
from hangtag.training.data.dataset import Dataset

QUANTIZATION_IMAGES = 512
"""int8 sees this many images of the training split, to learn how large activations get."""
_AS_ANYBODYS = (
    "Convert it as anybody's file with: hangtag import {file} --name NAME --precision int8 --calibration SAMPLES. "
    "Nothing was published."
)
# Written again for the new file; all else, such as the provenance and PyTorch's answers, is as true of it.
_OF_THE_FILE = ("precision", "gate", "parity", "test_accuracy", "speed", "graph_digest")


def is_own(file: Path) -> bool:
    """Whether hangtag exported this ONNX file from a run; False also for what is no ONNX file."""
    return file.is_file() and "training" in onnx_model.metadata(document.read(file))


def read(file: Path) -> onnx.ModelProto:
    """Read a file that another precision can be made of.

    Raises:
        ExportError: it is no ONNX file, is not as hangtag exported it, or is no classifier in FP32.
    """
    model = document.read(file)
    metadata = onnx_model.metadata(model)
    if metadata.get("graph_digest") != onnx_model.digest(model):
        raise ExportError(
            f"{file} names hangtag's training as its origin, but its graph or weights are not those that were "
            f"exported. {_AS_ANYBODYS.format(file=file)}"
        )
    wanted = {"precision": "fp32", "task": "single_label"}
    for key, value in wanted.items():
        if metadata.get(key, "fp32" if key == "precision" else None) != value:
            raise ExportError(
                f"{file} has {key} {metadata.get(key)}, and another precision is made of {value} alone. "
                f"{_AS_ANYBODYS.format(file=file)}"
            )
    return model


def network(model: onnx.ModelProto) -> str:
    """The name of the network that the file holds, such as ``lstm``. Raises ExportError: the file names none."""
    try:
        return str(json.loads(onnx_model.metadata(model)["training"])["config"]["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise ExportError("the file does not name its network: state the new model's name with --name.") from error


def config(model: onnx.ModelProto) -> Mapping[str, Any]:
    """The config.json of the run that the file was exported from. Raises ExportError: the file has none."""
    try:
        return dict(json.loads(onnx_model.metadata(model)["training"])["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise ExportError("the file does not say how it was trained.") from error


def export(
    file: Path,
    name: str,
    models: Path,
    data: Dataset,
    *,
    to: str,
    timed: bool = True,
    even_if_worse: bool = False,
    even_if_different: bool = False,
) -> Published:
    """Convert the file to the precision ``to``, take it through the gate, and publish it with the file's provenance.

    Args:
        name: the new model's name in the repository ``models``.
        data: what the file's network learned from; int8 takes the range of activations from its training split.
        timed: compare its speed with the FP32 file's.
        even_if_worse: publish it also if the version that serves is better, or cannot be compared.
        even_if_different: publish it also if the version that serves has other inputs, outputs or labels.

    Raises:
        IncomparableError: the version that serves has no figure on the same test set.
        ExportError: the file is none that another precision can be made of, or nothing can be written.
        GateError: a check fails. Nothing is published in any of these cases.

    Example:
        >>> file = Path("models/lstm/2/model.onnx")
        >>> export(file, "lstm-int8", Path("models"), fashion_mnist.load(), to="int8").folder
        PosixPath('models/lstm-int8/1')
    """
    original, test = read(file), data.test
    if onnx_model.metadata(original).get("data_digest") != data.digest:
        raise ExportError(
            f"{file} was trained on another data set than {data.name} is now, so nothing can be proven of it. "
            f"{_AS_ANYBODYS.format(file=file)}"
        )
    rival = predecessors.find(models, name, data.digest, even_if_worse=even_if_worse)
    signature = Runtime(file, provider="cpu").signature
    predecessors.require_same_contract(
        models,
        name,
        list(map(str, signature.inputs)),
        list(map(str, signature.outputs)),
        signature.labels,
        even_if_different=even_if_different,
    )
    metadata = _metadata(original, to)
    with publish(models, name) as publication:
        model = precision.convert(original, to, data.train.images[:QUANTIZATION_IMAGES])
        _replace_metadata(model, metadata)
        target = publication.model_file
        target.write_bytes(model.SerializeToString())
        proof = file_gate.prove(file, target, model, GateData(test.images, test.classes), precision=to)
        if rival is not None:
            compared = predecessors.compare(
                metadata | proof.metadata, rival, len(test), "add --even-if-worse", even_if_worse=even_if_worse
            )
            proof = replace(proof, checks=[*proof.checks, compared])
        proof = replace(
            proof, speed=speed.measure(target, test.images, None, file, timing="eager" if timed else "none")
        )
        _replace_metadata(model, metadata | proof.metadata | {"graph_digest": onnx_model.digest(model)})
        target.write_bytes(model.SerializeToString())
    return Published(publication.folder, proof, onnx_model.metadata(model), test.images)


def _metadata(original: onnx.ModelProto, to: str) -> dict[str, str]:
    kept = {key: value for key, value in onnx_model.metadata(original).items() if key not in _OF_THE_FILE}
    programs = json.loads(kept.get("versions", "{}")) | versions()
    return kept | {
        "precision": to,
        "made_of": f"the FP32 file with digest {onnx_model.digest(original)}",
        "processor": ", ".join(processor.instructions()),
        "versions": json.dumps(programs),
    }


def _replace_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    del model.metadata_props[:]
    onnx_model.add_metadata(model, metadata)
