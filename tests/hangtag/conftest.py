import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from hangtag.cli import main
from hangtag.export import exporter
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from hangtag.training.data.fashion_mnist import Split
from hangtag.training.runs.run import Run
from tests import onnx_models
from tests.export import runs
from tests.shipped import MODELS, latest

LSTM = latest("lstm")


@dataclass(frozen=True)
class Exported:
    """A finished run, and the file that its export published."""

    run: Run
    file: Path


@pytest.fixture(scope="session")
def exported(garments: Split, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exported")
    run = runs.train(folder / "lstm-tiny", "lstm", garments.first(300))
    published = exporter.export(run, folder / "models", garments.first(300))
    return Exported(run, published.folder / "model.onnx")


@pytest.fixture(scope="session")
def proven(garments: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with an lstm that went through the gate on the whole test set."""
    folder = tmp_path_factory.mktemp("proven")
    exporter.export(runs.train(folder / "run", "lstm", garments.first(300)), folder / "models", garments)
    return folder / "models"


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped lstm, a classifier of other labels, and models that cannot be evaluated."""
    models = tmp_path_factory.mktemp("models")
    (models / "lstm").symlink_to(MODELS / "lstm")
    onnx_models.publish(models, "other_labels", onnx_models.classifier())
    onnx_models.publish(models, "two_inputs", onnx_models.two_inputs())
    onnx_models.publish(models, "seven_classes", classifier_of(classes=7))
    onnx_models.publish(models, "no_logits", classifier_of(output="scores"))
    onnx_models.publish(models, "broken_numbers", classifier_of(bias=np.nan))
    return models


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[Server]:
    with Server(ServerConfig(models=repository, port=0, provider="cpu")) as running:
        yield running


def classifier_of(*, classes: int = 10, output: str = "logits", bias: float = 0.0) -> onnx.ModelProto:
    """image UINT8 [batch, 28, 28] -> the means of its first columns, plus a bias, under a name."""
    return onnx_models.model(
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["pixels", "rows"], ["means"], keepdims=0),
            helper.make_node("Slice", ["means", "from", "to", "axis"], ["first"]),
            helper.make_node("Add", ["first", "bias"], [output]),
        ],
        {"image": (TensorProto.UINT8, ["batch", 28, 28])},
        {output: (TensorProto.FLOAT, ["batch", classes])},
        {
            "rows": np.array([1], np.int64),
            "from": np.array([0], np.int64),
            "to": np.array([classes], np.int64),
            "axis": np.array([1], np.int64),
            "bias": np.array([bias], np.float32),
        },
    )


def hangtag(*arguments: object) -> Result:
    """The command in this process, its output 100 columns wide."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env={"COLUMNS": "100"})


def document(*arguments: object) -> dict[str, Any]:
    """What the command writes as JSON to standard output, and nothing else."""
    result = hangtag("evaluate", *arguments, "--json", "-")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    written: dict[str, Any] = json.loads(result.stdout)
    return written
