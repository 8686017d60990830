"""Record in a classifier's file how a picture becomes its input: ``hangtag models fit``."""

import json
from pathlib import Path

import onnx

from hangtag.export.errors import ExportError
from hangtag.export.file import onnx_model
from hangtag.export.repository import inventory
from hangtag.export.repository.publishing import is_our_config, publish
from hangtag.serving.image_spec import ImageSpec, ImageSpecError
from hangtag.serving.model_repository import CONFIG_FILE


def record(models: Path, name: str, fit: str) -> Path:
    """Publish the version that serves again, with ``hangtag.image``. Graph, weights and all other metadata stay.

    Args:
        models: the model repository.
        name: the model.
        fit: one of ``image_spec.FITS``.

    Returns:
        The new version's folder.

    Raises:
        ExportError: there is no such model, it is no classifier of pictures, it says already how pictures fit, or
            nothing can be written.
    """
    entry = inventory.find(models, name)
    if entry.signature is None:
        raise ExportError(f"{entry.path} cannot be loaded: {entry.trouble}. Nothing was published.")
    shape = entry.signature.picture_shape
    if shape is None:
        raise ExportError(
            f"{name} is no classifier of pictures: it needs one UINT8 input, [batch, height, width] or [batch, height, "
            "width, 3], an output probabilities, and labels. 'hangtag import --preprocessing' makes one of a network. "
            "Nothing was published."
        )
    if entry.signature.image is not None:
        raise ExportError(
            f"{name} version {entry.version} says already that its pictures have fit {entry.signature.image.fit}, "
            "as it learned them. Nothing was published."
        )
    described = {"height": shape[0], "width": shape[1], "channels": shape[2] if len(shape) == 3 else 1, "fit": fit}
    try:
        ImageSpec.of(described)
    except ImageSpecError as error:
        raise ExportError(f"{name}: {error}. Nothing was published.") from error
    model = onnx.load(entry.path)
    onnx_model.add_metadata(model, {"image": json.dumps(described)})
    with publish(models, name) as publication:
        publication.model_file.write_bytes(model.SerializeToString())
        config = models / name / CONFIG_FILE
        if is_our_config(config):  # else publishing would remove it
            publication.config_file.write_bytes(config.read_bytes())
    return publication.folder
