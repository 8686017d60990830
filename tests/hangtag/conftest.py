"""Runs, models and a server that the tests of hangtag's commands share."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from hangtag.serving.server.process.server import Server
from tests.kit import forkserver, onnx_models, voc_files
from tests.kit.command import invoke
from tests.kit.exported import Exported, label_sets
from tests.kit.once import once
from tests.kit.server import server as running_server
from tests.kit.shipped import MODELS

SOURCES = ("training", "export", "hangtag", "serving/server/runtime")
"""The sources that determine what is trained and exported here, for tests/kit/once.py."""


@pytest.fixture(scope="package", autouse=True)
def forked_children() -> Iterator[None]:
    """Fork the child processes of ``hangtag models verify``, so that they need not import ONNX Runtime again."""
    with forkserver.forked_children():
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run: a small LSTM, trained on 300 images for two epochs."""

    def make(folder: Path) -> Path:
        invoke("train", "lstm-56", "--limit", 300, "--epochs", 2, "--threads", 1, "--device", "cpu", "--out", folder)
        return folder

    return once(tmp_path_factory, "trained", make, sources=SOURCES)


@pytest.fixture(scope="session")
def proven(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the trained network, which passed the gate."""

    def make(folder: Path) -> Path:
        invoke("export", trained, "--models", folder / "models")
        return folder / "models"

    return once(tmp_path_factory, "proven", make, sources=SOURCES)


@pytest.fixture(scope="session")
def sigmoids(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A network that selects its label sets by a threshold."""
    return label_sets(tmp_path_factory, "sigmoids")


@pytest.fixture(scope="session")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small data set in VOC 2007's layout. Its subfolder ``run`` has a run trained on this data set."""

    def make(folder: Path) -> Path:
        options = ("--epochs", 1, "--threads", 1, "--device", "cpu", "--out", folder / "run")
        invoke("train", "cnn_rnn", "--data", "voc2007", "--data-dir", voc_files.write(folder), *options)
        return folder

    return once(tmp_path_factory, "voc", make, sources=[*SOURCES, "tests/kit/voc_files.py"])


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped lstm, models that cannot be evaluated, and ``reverses``, which answers a batch in reverse order."""
    models = tmp_path_factory.mktemp("models")
    (models / "lstm").symlink_to(MODELS / "lstm")
    onnx_models.publish(models, "other_labels", onnx_models.classifier())
    onnx_models.publish(models, "two_inputs", onnx_models.two_inputs())
    weights = onnx_models.weights()
    onnx_models.publish(models, "seven_classes", classifier_of(weights[:, :7]))
    onnx_models.publish(models, "no_logits", classifier_of(weights, output="scores"))
    onnx_models.publish(models, "broken_numbers", classifier_of(weights * np.float32(np.nan)))
    onnx_models.publish(models, "straight", classifier_of(weights))
    onnx_models.publish(models, "reverses", classifier_of(weights, reverses=True))
    return models


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[Server]:
    with running_server(repository, http_port=-1, provider="cpu") as running:
        yield running


def classifier_of(
    weights: npt.NDArray[np.float32], *, output: str = "logits", reverses: bool = False
) -> onnx.ModelProto:
    """A model that multiplies the pixels of ``image`` by ``weights`` [784, classes], and returns the products.

    reverses: Reverse the order of the answers in a batch.
    """
    last = "Slice(product, minus_one, end, axis, minus_one)" if reverses else "Identity(product)"
    return onnx_models.from_text(
        f"""(uint8[batch, 28, 28] image) => (float[batch, {weights.shape[1]}] {output})
        <int64[2] flat = {{-1, 784}}, int64[1] minus_one = {{-1}}, int64[1] end = {{-10000}}, int64[1] axis = {{0}}> {{
            pixels = Cast <to = 1> (image)
            rows = Reshape(pixels, flat)
            product = MatMul(rows, weights)
            {output} = {last}
        }}""",
        weights=weights,
    )
