import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from hangtag.cli import main
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from hangtag.training.data.fashion_mnist import Split
from tests.hangtag.proven import proven_on
from tests.kit import onnx_models
from tests.kit.exported import Exported, single_label
from tests.kit.once import once
from tests.kit.shipped import MODELS, latest

LSTM = latest("lstm")


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return single_label(tmp_path_factory, "lstm")


@pytest.fixture(scope="session")
def proven(exported: Exported, garments: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with an lstm that went through the gate on the whole test set."""

    return once(tmp_path_factory, "proven", lambda folder: proven_on(exported, garments, folder))


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
    with Server(ServerConfig(models=repository, port=0, http_port=-1, provider="cpu")) as running:
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
