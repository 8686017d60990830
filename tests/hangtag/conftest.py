"""Runs, models and a server that the tests of hangtag's own commands share."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models, voc_files
from tests.kit.command import invoke
from tests.kit.exported import Exported, label_paths, label_scores
from tests.kit.once import once
from tests.kit.server import server as running_server
from tests.kit.shipped import MODELS


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run: a small LSTM that saw 300 images twice."""

    def make(folder: Path) -> Path:
        invoke("train", "lstm-56", "--limit", 300, "--epochs", 2, "--threads", 1, "--device", "cpu", "--out", folder)
        return folder

    return once(tmp_path_factory, "trained", make)


@pytest.fixture(scope="session")
def proven(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the trained network, which went through the gate."""

    def make(folder: Path) -> Path:
        folders = ("--models", folder / "models", "--reports", folder / "reports")
        invoke("export", trained, "--timing", "none", *folders)
        return folder / "models"

    return once(tmp_path_factory, "proven", make)


@pytest.fixture(scope="session")
def cnn_rnn(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A network that answers with paths of every length."""
    return label_paths(tmp_path_factory)


@pytest.fixture(scope="session")
def sigmoids(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A network whose sets of labels are decided by a threshold."""
    return label_scores(tmp_path_factory, "sigmoids")


@pytest.fixture(scope="session")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with VOC 2007 in small, and a network that learned from it in ``run``."""

    def make(folder: Path) -> Path:
        options = ("--epochs", 1, "--threads", 1, "--device", "cpu", "--out", folder / "run")
        invoke("train", "cnn_rnn", "--data", "voc2007", "--data-dir", voc_files.write(folder), *options)
        return folder

    return once(tmp_path_factory, "voc", make)


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped lstm, a classifier of other labels, and models that cannot be evaluated, or one image at a time."""
    models = tmp_path_factory.mktemp("models")
    (models / "lstm").symlink_to(MODELS / "lstm")
    onnx_models.publish(models, "other_labels", onnx_models.classifier())
    onnx_models.publish(models, "two_inputs", onnx_models.two_inputs())
    onnx_models.publish(models, "seven_classes", classifier_of(classes=7))
    onnx_models.publish(models, "no_logits", classifier_of(output="scores"))
    onnx_models.publish(models, "broken_numbers", classifier_of(bias=np.nan))
    onnx_models.publish(models, "straight", classifier_of())
    onnx_models.publish(models, "reverses", classifier_of(reverses=True))
    return models


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[Server]:
    with running_server(repository, http_port=-1, provider="cpu") as running:
        yield running


def classifier_of(
    *, classes: int = 10, output: str = "logits", bias: float = 0.0, reverses: bool = False
) -> onnx.ModelProto:
    """image UINT8 [batch, 28, 28] -> the means of its first columns, plus a bias, under a name.

    reverses: The answer to the first image comes last, and so on.
    """
    sums = "sums" if reverses else output
    reversal = [helper.make_node("Slice", [sums, "last", "end", "images", "step"], [output])] if reverses else []
    return onnx_models.model(
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["pixels", "rows"], ["means"], keepdims=0),
            helper.make_node("Slice", ["means", "from", "to", "axis"], ["first"]),
            helper.make_node("Add", ["first", "bias"], [sums]),
            *reversal,
        ],
        {"image": (TensorProto.UINT8, ["batch", 28, 28])},
        {output: (TensorProto.FLOAT, ["batch", classes])},
        {
            "rows": np.array([1], np.int64),
            "from": np.array([0], np.int64),
            "to": np.array([classes], np.int64),
            "axis": np.array([1], np.int64),
            "bias": np.array([bias], np.float32),
            "last": np.array([-1]),
            "end": np.array([np.iinfo(np.int64).min]),
            "images": np.array([0]),
            "step": np.array([-1]),
        },
    )
