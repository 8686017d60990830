"""The attacked server, which runs in another process. Its models' answers are larger than their requests."""

from collections.abc import Iterator

import pytest

from tests.kit import onnx_models
from tests.kit.command import serving
from tests.kit.over_http import ENVOY, options_of
from tests.kit.target import TIMES, Attacked


@pytest.fixture(scope="package", params=["native", "grpc", ENVOY])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    models = onnx_models.publish_all(tmp_path_factory.mktemp("models"), "two_inputs", "filled")
    onnx_models.publish(models, "tiled", onnx_models.tiled(TIMES))
    control = ("--model-control", "explicit", "--load-model", "*")  # calls may load and unload every model
    with serving("--models", str(models), "--port", "0", *options_of(request.param), *control) as server:
        target = Attacked(server, request.param)
        yield target
        target.close()


@pytest.fixture(autouse=True)
def _answers_afterwards(target: Attacked) -> Iterator[None]:
    yield
    target.require_answer()
