"""Fuzzing has one server for each test file and transport. After each test, the server must be healthy."""

import resource
from collections.abc import Iterator

import pytest

from tests.kit import onnx_models, requests, shipped
from tests.kit.command import serving
from tests.kit.over_http import ENVOY, options_of
from tests.kit.target import Target

MANY_FILES = 8192
"""The number of files that this process and the server may each open. Each connection is an open file in both."""


@pytest.fixture(scope="module", params=["native", "grpc", ENVOY])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server whose repository has one model of every kind."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = min(MANY_FILES, hard) if hard != resource.RLIM_INFINITY else MANY_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, many), hard))  # the server inherits this limit
    models = tmp_path_factory.mktemp("models")
    for name in requests.MODELS:
        if name == "lstm":
            (models / name).symlink_to(shipped.MODELS / name)
        else:
            onnx_models.publish(models, name, getattr(onnx_models, name)())
    options = ("--max-batch-size", "16", *options_of(request.param))
    with serving("--models", str(models), "--port", "0", *options) as server:
        target = Target(server, request.param)
        yield target
        target.close()


@pytest.fixture(autouse=True)
def _healthy_afterwards(target: Target) -> Iterator[None]:
    yield
    target.require_health()
