"""Implements ``hangtag models fit``, which records in a classifier's file how a picture is resized to its input."""

import json
from dataclasses import replace
from pathlib import Path

import onnx

from hangtag.export import predecessors
from hangtag.export.errors import ExportError
from hangtag.export.file import onnx_model
from hangtag.export.gate.check import ACCURACY, AGREEMENT, PICTURES, PREDECESSOR
from hangtag.export.repository import inventory
from hangtag.export.repository.publishing import publish
from hangtag.serving.image_spec import ImageSpec, ImageSpecError

_MEASURED = ("test_accuracy", "tested_on", "data_digest")
_CHECKED = (PICTURES, ACCURACY, PREDECESSOR, AGREEMENT, "agreement_while_choosing")
"""The metadata and the checks of 'hangtag import' that depend on how pictures were resized (the file's fit)."""


def record(models: Path, name: str, fit: str, *, even_if_different: bool = False) -> Path:
    """Publish the current version again, with this fit. Results that were measured with another fit are dropped. The
    example pictures stay, because they have the size of the model's input.

    Args:
        models: the model repository.
        name: the model.
        fit: one of ``image_spec.FITS``.
        even_if_different: publish even if the served version has another fit.

    Returns:
        The new version's folder.

    Raises:
        ExportError: One of: there is no such model; the model does not classify pictures; its file already has this
            fit; its training used another fit; the repository cannot be written.
        GateError: the served version resizes pictures differently, and ``even_if_different`` is False.
    """
    entry = inventory.find(models, name)
    if entry.signature is None:
        raise ExportError(f"{entry.path} cannot be loaded: {entry.trouble}. Nothing was published.")
    shape = entry.signature.picture_shape
    if shape is None:
        raise ExportError(
            f"{name} does not classify pictures: a classifier needs one UINT8 input, [batch, height, width] or [batch, "
            "height, width, 3], an output named 'probabilities', and labels. 'hangtag import --preprocessing' turns a "
            "network into a classifier. Nothing was published."
        )
    image = entry.signature.image
    if image is not None and (image.fit == fit or "training" in entry.metadata):
        raise ExportError(
            f"{name} version {entry.version} already records the fit {image.fit} for its pictures"
            f"{'' if image.fit == fit else ', as in its training; to change that, train it again with --fit'}. Nothing "
            "was published."
        )
    try:
        stated = image or ImageSpec(shape[0], shape[1], shape[2] if len(shape) == 3 else 1)
        described = replace(stated, fit=fit)
    except ImageSpecError as error:
        raise ExportError(f"{name}: {error}. Nothing was published.") from error
    contract = entry.signature.inputs, entry.signature.outputs, entry.signature.labels, described
    predecessors.require_same_contract(entry, *contract, even_if_different=even_if_different)
    model = onnx.load(entry.path)
    metadata = onnx_model.metadata(model) | {"image": json.dumps(described.as_json())}
    if image is not None:
        metadata = {key: value for key, value in metadata.items() if key not in _MEASURED}
        if "preprocessing" in metadata:
            metadata["preprocessing"] = metadata["preprocessing"].replace(f"fit={image.fit}", f"fit={fit}")
        if isinstance(entry.gate, dict):
            metadata["gate"] = json.dumps({key: each for key, each in entry.gate.items() if key not in _CHECKED})
    with publish(models, name) as publication:
        onnx_model.write(model, metadata, publication.model_file)
    return publication.folder
