"""Signals to ``hangtag serve``: it ends, and finishes first what it has accepted."""

import signal
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import inference_pb2_grpc
from tests.kit import onnx_models
from tests.kit.command import TIMEOUT, Serving, serving
from tests.kit.live import index, outputs, request
from tests.serving.server.process.slow_model import slow

pytestmark = pytest.mark.slow
SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
TRANSPORTS = pytest.mark.parametrize("transport", ["native", "grpc"])


@pytest.fixture
def models(models: Path) -> Path:
    onnx_models.publish(models, "slow", slow())
    return models


def calls_in_flight(stub: Any, server: Serving, rounds: int) -> list[Any]:
    """Two calls that the server has accepted: it computes one, and one is queued. None where they ended meanwhile."""
    sent = request("slow", rounds=np.array([rounds]))
    calls = [stub.ModelInfer.future(sent, timeout=TIMEOUT) for _ in range(2)]
    queued = 'nv_inference_pending_request_count{model="slow",version="1"} 1.0'
    while not any(call.done() for call in calls):
        if queued in server.metrics():
            return calls
    assert [outputs(call.result())["done"].tolist() for call in calls] == [[rounds]] * 2
    return []


@SIGNALS
def test_it_logs_that_it_is_ready_answers_and_ends_on_a_signal(models: Path, number: signal.Signals) -> None:
    with serving("--models", str(models), "--port", "0") as server:
        address = server.wait_until_ready()
        with grpc.insecure_channel(address) as channel:
            stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert outputs(stub.ModelInfer(request("gather", index=index(2)), timeout=TIMEOUT))["value"] == [20]
        server.signal(number)
        assert server.wait() == 0
    assert f"signal={number.name}" in server.wait_for("stopping")
    assert server.wait_for("stopped")
    assert not any("Traceback" in line for line in server.log)
    assert all(line.startswith(("event=", "time=", "level=")) or "event=" in line for line in server.log)


@TRANSPORTS
def test_a_call_in_flight_is_finished_first(models: Path, transport: str) -> None:
    with (
        serving("--models", str(models), "--port", "0", "--transport", transport, "--instances", "1") as server,
        grpc.insecure_channel(server.wait_until_ready()) as channel,
    ):
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        began = time.monotonic()
        stub.ModelInfer(request("slow", rounds=np.array([1000])), timeout=TIMEOUT)
        rounds = round(500 / (time.monotonic() - began))  # about half a second of work
        while not (calls := calls_in_flight(stub, server, rounds)):  # a busy machine takes longer to look
            rounds *= 2
        server.signal(signal.SIGTERM)
        server.wait_for("stopping")
        assert [outputs(call.result())["done"].tolist() for call in calls] == [[rounds]] * 2
        assert server.wait() == 0


@TRANSPORTS
def test_a_signal_under_load_loses_no_call_that_was_accepted(models: Path, transport: str) -> None:
    """Each caller's call in flight is answered; native refuses the next one by name, and grpcio's core by its own."""
    answered: list[int] = []
    ends: list[tuple[grpc.StatusCode, str]] = []
    with serving("--models", str(models), "--port", "0", "--transport", transport) as server:
        address = server.wait_until_ready()

        def call(number: int) -> None:
            own = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(address, own) as channel:
                stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
                while True:
                    try:
                        stub.ModelInfer(request("slow", rounds=np.array([200])), timeout=TIMEOUT)
                    except grpc.RpcError as error:
                        ends.append((error.code(), error.details() or ""))
                        return
                    answered.append(number)

        callers = [threading.Thread(target=call, args=(number,)) for number in range(8)]
        for caller in callers:
            caller.start()
        while {*answered} != {*range(8)}:
            assert all(caller.is_alive() for caller in callers), ends
            threading.Event().wait(0.001)
        server.signal(signal.SIGTERM)
        for caller in callers:
            caller.join(TIMEOUT)
        assert server.wait() == 0
    if transport == "native":  # its connections outlive the calls in flight, so no call ends with one
        stopping = "the server is stopping and takes no new requests; try another replica"
        assert ends == [(grpc.StatusCode.UNAVAILABLE, stopping)] * 8
    else:  # a call that is just arriving is CANCELLED, and a later one finds nobody
        assert {code for code, _ in ends} <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert not any("Traceback" in line for line in server.log)


@TRANSPORTS
def test_a_second_signal_ends_it_at_once(models: Path, transport: str) -> None:
    with (
        serving("--models", str(models), "--port", "0", "--transport", transport) as server,
        grpc.insecure_channel(server.wait_until_ready()) as channel,
    ):
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = stub.ModelInfer.future(request("slow", rounds=np.array([2**40])), timeout=TIMEOUT)
        assert stub.ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT).live
        server.signal(signal.SIGTERM)
        server.wait_for("stopping")
        assert not call.done()
        server.signal(signal.SIGTERM)
        assert server.wait() == 1
        assert call.exception(TIMEOUT).code() is grpc.StatusCode.UNAVAILABLE


def test_a_signal_right_after_ready_is_not_lost(models: Path) -> None:
    for _ in range(2):
        with serving("--models", str(models), "--port", "0") as server:
            server.wait_for("ready")
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
