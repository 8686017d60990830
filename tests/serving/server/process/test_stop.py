"""After a signal, ``hangtag serve`` finishes the calls that it accepted, over every transport, and ends."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hangtag.protos import inference_pb2 as pb
from tests.kit import onnx_models
from tests.kit.command import Serving, serving, with_limits
from tests.kit.live import index, outputs, request
from tests.kit.over_http import HTTP, inference_over_http
from tests.kit.waiting import TIMEOUT
from tests.kit.workers import connections

pytestmark = pytest.mark.slow
TRANSPORTS = pytest.mark.parametrize("transport", ["native", "grpc", HTTP])


@pytest.fixture
def models(models: Path) -> Path:
    onnx_models.publish(models, "slow", onnx_models.slow())
    return models


@contextmanager
def started(models: Path, transport: str, *options: str) -> Iterator[Serving]:
    ports = ("--port", "0", "--transport", "grpc" if transport == HTTP else transport)
    with serving("--models", str(models), *ports, *options) as server:
        server.wait_for("ready")
        yield server


@contextmanager
def calling(server: Serving, transport: str) -> Iterator[Any]:
    """The methods of the inference service, over a separate connection."""
    if transport == HTTP:
        yield inference_over_http(server.http_address)
    else:
        with connections(server, 1) as (stub,):
            yield stub


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_it_logs_that_it_is_ready_answers_and_ends_on_a_signal(models: Path, number: signal.Signals) -> None:
    with started(models, "native") as server:
        with calling(server, "native") as stub:
            assert outputs(stub.ModelInfer(request("gather", index=index(2)), timeout=TIMEOUT))["value"] == [20]
        server.signal(number)
        assert server.wait() == 0
    assert f"signal={number.name}" in server.wait_for("stopping")
    assert server.wait_for("stopped")
    assert all("event=" in line for line in server.log), "each line of the log is a record"


@TRANSPORTS
def test_a_second_signal_ends_it_at_once(models: Path, transport: str) -> None:
    with started(models, transport) as server, calling(server, transport) as stub:
        call = stub.ModelInfer.future(request("slow", rounds=np.array([2**40])), timeout=TIMEOUT)
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT).live
        server.signal(signal.SIGTERM)
        server.wait_for("stopping")
        assert not call.done()
        server.signal(signal.SIGTERM)
        assert server.wait() == 1
        assert call.exception(TIMEOUT).code() is grpc.StatusCode.UNAVAILABLE


def test_a_computation_that_never_ends_does_not_keep_it(models: Path) -> None:
    options = ("--models", str(models), "--port", "0", "--drain-seconds", "0.1")
    with serving(*options, first=with_limits(end_seconds=0.5)) as server:
        server.wait_for("ready")
        with connections(server, 1) as (stub,):
            call = stub.ModelInfer.future(request("slow", rounds=np.array([2**40])), timeout=TIMEOUT)
            assert stub.ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT).live
            server.signal(signal.SIGTERM)
            assert server.wait() == -signal.SIGALRM
            call.cancel()


def test_a_signal_right_after_ready_is_not_lost(models: Path) -> None:
    for _ in range(2):
        with serving("--models", str(models), "--port", "0") as server:
            server.wait_for("ready")
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
