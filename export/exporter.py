"""Publish a finished run as the next version of a model, with its provenance and proof inside the file."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hangtag.export.arrays import Pixels
from hangtag.export.errors import ExportError
from hangtag.export.file import onnx_model, precision, provenance, reference_answers, torch_export
from hangtag.export.gate.proof import GateData, Proof, prove
from hangtag.export.network import checkpoint
from hangtag.export.network.served_network import ServedNetwork, SingleLabel
from hangtag.export.repository.publishing import publish
from hangtag.training.data import outfits
from hangtag.training.data.fashion_mnist import Images, Split
from hangtag.training.data.multi_label import Canvases
from hangtag.training.runs.run import Run

CANVASES = 1_000
"""A network that answers with several labels is compared on this many canvases."""
CALIBRATION = 512
"""int8 sees this many images of the training split, to learn how large activations get."""


@dataclass(frozen=True)
class Published:
    """A published run."""

    folder: Path
    """The version's folder."""
    proof: Proof
    metadata: Mapping[str, str]
    """The file's own metadata (keys without their prefix)."""
    images: Pixels
    """The real images that PyTorch's answers and the file's in the proof belong to."""


def export(
    run: Run,
    models: Path,
    test: Split,
    *,
    to: str = "fp32",
    calibration: Images | None = None,
    timing: str = "none",
) -> Published:
    """Export the run's best epoch in the precision ``to``, take it through the gate, and publish it.

    Args:
        models: the model repository.
        calibration: uint8 images [n, 28, 28] of the training split, which int8 needs.
        timing: what to compare the file's speed with, one of ``gate.speed.TIMINGS``.

    Raises:
        RunMismatchError: the run is not finished.
        ExportError: the weights do not fit, the precision is not for this network, or nothing can be written.
        GateError: a check fails.
        Nothing is published in any of these cases.

    Example:
        >>> published = export(Run.find("cnn", Path("runs")), Path("models"), load_test())
        >>> published.folder
        PosixPath('models/cnn/3')
    """
    run.require_finished()
    config, metrics = run.read_config(), run.read_metrics()
    served = checkpoint.load(run)
    if to != "fp32" and not isinstance(served, SingleLabel):
        raise ExportError(f"{run.model} answers with sets of labels, which are published in fp32 only, not in {to}.")
    data = _gate_data(served, test, config)
    with publish(models, precision.model_name(run.model, to)) as publication:
        file = publication.model_file
        metadata = served.metadata | {"precision": to} | provenance.collect(served, config, metrics)
        fp32_model = torch_export.to_onnx(served, metadata)
        model = precision.convert(fp32_model, to, _calibration(calibration))
        file.write_bytes(model.SerializeToString())
        with _fp32_file(fp32_model, needed=to != "fp32") as fp32:
            proof = prove(served, file, model, data, precision=to, fp32=fp32, timing=timing)
        reference = reference_answers.record(proof.expected, one_label=isinstance(served, SingleLabel))
        # Written again with the proof in its metadata; graph and weights, which were proven, are the same.
        onnx_model.add_metadata(model, proof.metadata | reference | {"graph_digest": onnx_model.digest(model)})
        file.write_bytes(model.SerializeToString())
    return Published(publication.folder, proof, onnx_model.metadata(model), data.images)


@contextmanager
def _fp32_file(model: onnx.ModelProto, *, needed: bool) -> Iterator[Path | None]:
    """A temporary file of the network in FP32, whose speed is compared with another precision's."""
    if not needed:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "fp32.onnx")
        file.write_bytes(model.SerializeToString())
        yield file


def _calibration(images: Images | None) -> Images:
    return np.empty((0, 28, 28), np.uint8) if images is None else images[:CALIBRATION]


def _gate_data(served: ServedNetwork, test: Split, config: Mapping[str, Any]) -> GateData:
    if isinstance(served, SingleLabel):
        return GateData(test.images, test.classes)
    return GateData(_canvases(test, config))


def _canvases(test: Split, config: Mapping[str, Any]) -> Canvases:
    """Canvases [CANVASES, 64, 64] of real test garments: of the run's own data set where that is one of outfits.

    For any other data set "outfits" serves as well, since it is arithmetic that is compared.
    """
    dataset = config.get("dataset")
    return outfits.load_split(dataset if dataset in outfits.NAMES else "outfits", "test", test, CANVASES).images
