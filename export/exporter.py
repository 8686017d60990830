"""A finished run -> the next version of a model in the repository, with its provenance and proof inside the file."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hangtag.export.errors import ExportError
from hangtag.export.file import onnx_model as graph
from hangtag.export.file import precision, provenance
from hangtag.export.file import reference_answers as reference
from hangtag.export.file import torch_export as onnx_file
from hangtag.export.gate.proof import Exam, Proof, prove
from hangtag.export.gate.runtime_answers import Pixels
from hangtag.export.network import checkpoint as trained
from hangtag.export.network.served_network import Classifier, Served
from hangtag.export.repository import publishing as repository
from hangtag.training.data import outfits
from hangtag.training.data.fashion_mnist import Images, Split
from hangtag.training.data.multi_label import Canvases
from hangtag.training.runs.run import Run

CANVASES = 1_000
"""How many canvases a network of several labels is compared on."""
CALIBRATION = 512
"""How many images of the training split tell int8 how large activations get."""


@dataclass(frozen=True)
class Published:
    """Where a model went and what was proven about it."""

    folder: Path
    proof: Proof
    metadata: Mapping[str, str]
    images: Pixels
    """What PyTorch and the file were asked about, uint8 [n, height, width]."""


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

    calibration: uint8 images [n, 28, 28] of the training split, which int8 needs. timing: see gate.speed.
    Raises RunMismatchError for a run that is not finished, ExportError for one whose weights do not fit or that this
    precision is not for, and GateError when the file does not pass; nothing is published then.
    """
    run.require_finished()
    config, metrics = run.read_config(), run.read_metrics()
    served = trained.load(run)
    if to != "fp32" and not isinstance(served, Classifier):
        raise ExportError(f"{run.model} answers with sets of labels, which are published in fp32 only, not in {to}.")
    exam = _exam(served, test, config)
    proven: list[Published] = []

    def write(path: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            original = Path(folder, "fp32.onnx")
            told = served.metadata | {"precision": to} | provenance.collect(served, config, metrics)
            onnx_file.write(served, told, original)
            converted = precision.convert(onnx.load(original), to, _calibration(calibration))
            path.write_bytes(converted.SerializeToString())
            fp32 = None if to == "fp32" else original
            proof = prove(served, path, exam, precision=to, fp32=fp32, timing=timing)
        # Once more, now with what was proven about the graph; its weights and nodes are the same.
        kept = reference.record(proof.expected, one_label=isinstance(served, Classifier))
        added = proof.metadata | kept | {"graph_digest": graph.digest(path)}
        written = onnx_file.add_metadata(path, added)
        proven.append(Published(path, proof, written, exam.images))

    folder = repository.publish(models, precision.model_name(run.model, to), write)
    return replace(proven[0], folder=folder)


def _calibration(images: Images | None) -> Images:
    return np.empty((0, 28, 28), np.uint8) if images is None else images[:CALIBRATION]


def _exam(served: Served, test: Split, config: Mapping[str, Any]) -> Exam:
    if isinstance(served, Classifier):
        return Exam(test.images, test.classes)
    return Exam(_canvases(test, config))


def _canvases(test: Split, config: Mapping[str, Any]) -> Canvases:
    """Canvases [CANVASES, 64, 64] of real test garments: the first of the run's own test split where it is of outfits,
    else of outfits all the same, for the arithmetic is what is compared."""
    dataset = config.get("dataset")
    return outfits.load_split(dataset if dataset in outfits.NAMES else "outfits", "test", test, CANVASES).images
