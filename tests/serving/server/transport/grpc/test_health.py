"""Health and the other answers of a server from its first listening to its end."""

import contextlib
import threading
import time
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import inference_pb2_grpc
from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import ModelLoadError, StartError
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.runtime.session import Runtime
from tests.kit import onnx_models
from tests.kit.live import (
    TIMEOUT,
    LiveServer,
    failure,
    index,
    number,
    outputs,
    request,
    status_of,
    watch,
)
from tests.kit.over_http import live_server

SERVICES = ("", "inference.GRPCInferenceService", "hangtag.v1.Classifier")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    return tmp_path


def test_health_while_the_server_serves(live: LiveServer) -> None:
    for service in (*SERVICES, "classifier", "lstm"):
        assert status_of(live.health, service) == "SERVING"
    assert failure(lambda: status_of(live.health, "nobody"))[0] is grpc.StatusCode.NOT_FOUND
    assert next(watch(live.health, "nobody")) == "SERVICE_UNKNOWN"


def test_health_and_readiness_from_loading_to_the_stop(models: Path) -> None:
    is_loading, may_load = threading.Event(), threading.Event()

    class SlowRuntime(Runtime):
        def __init__(self, path: Path, **options: Any) -> None:
            is_loading.set()
            assert may_load.wait(TIMEOUT)
            super().__init__(path, **options)

    server = Server(ServerConfig(models=models, port=0, http_port=-1), runtimes=SlowRuntime)
    starting = threading.Thread(target=server.start)
    starting.start()
    assert is_loading.wait(TIMEOUT)
    with grpc.insecure_channel(server.address) as channel:
        inference = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        health = health_pb2_grpc.HealthStub(channel)

        # It listens and loads.
        watched = {service: watch(health, service) for service in (*SERVICES, "gather")}
        for service in SERVICES:
            assert status_of(health, service) == next(watched[service]) == "NOT_SERVING"
        assert next(watched["gather"]) == "SERVICE_UNKNOWN"
        assert inference.ServerLive(pb.ServerLiveRequest()).live
        assert not inference.ServerReady(pb.ServerReadyRequest()).ready
        assert not inference.ModelReady(pb.ModelReadyRequest(name="gather")).ready
        (listed,) = inference.RepositoryIndex(pb.RepositoryIndexRequest()).models
        assert (listed.name, listed.version, listed.state) == ("gather", "1", "LOADING")
        assert list(inference.RepositoryIndex(pb.RepositoryIndexRequest(ready=True)).models) == []
        code, message = failure(lambda: inference.ModelInfer(request("gather", index=index(1))))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert message.startswith("the models are being loaded; wait until the server is ready")

        # It serves.
        may_load.set()
        for service in (*SERVICES, "gather"):
            assert next(watched[service]) == "SERVING"
        starting.join(TIMEOUT)
        assert inference.ServerReady(pb.ServerReadyRequest()).ready
        assert inference.ModelReady(pb.ModelReadyRequest(name="gather")).ready
        assert outputs(inference.ModelInfer(request("gather", index=index(1))))["value"].tolist() == [10]

        # It stops: no Watch delays it, and each sends the state before it ends.
        stopping = threading.Thread(target=server.stop, args=(3600,))
        stopping.start()
        for service in (*SERVICES, "gather"):
            assert list(watched[service]) == ["NOT_SERVING"]
        stopping.join(TIMEOUT)
        assert not stopping.is_alive()
        assert failure(lambda: inference.ServerLive(pb.ServerLiveRequest()))[0] is grpc.StatusCode.UNAVAILABLE


def call_until_refused(stub: inference_pb2_grpc.GRPCInferenceServiceStub) -> None:
    ends = time.monotonic() + TIMEOUT
    while time.monotonic() < ends:
        stub.ModelInfer(request("free_axis", x=number(1)), timeout=TIMEOUT)


def test_a_call_in_flight_is_finished_before_the_end(repository: Path, transport: str) -> None:
    config = ServerConfig(models=repository, port=0, http_port=-1, transport=transport)
    with LiveServer(config) as live, live.gate("gather") as gate:
        states = watch(live.health, "gather")
        assert next(states) == "SERVING"
        calls = [live.inference.ModelInfer.future(request("gather", index=index(1)), timeout=TIMEOUT) for _ in range(3)]
        gate.wait_until_queued(3)
        gate.wait_until_computing()
        stopping = threading.Thread(target=live.server.stop, args=(3600,))
        assert live.server.ready
        stopping.start()
        assert list(states) == ["NOT_SERVING"]
        assert not live.server.ready  # as the metrics port reports
        with live.connect() as another:
            stub = inference_pb2_grpc.GRPCInferenceServiceStub(another)
            with pytest.raises(grpc.RpcError) as refusal:  # from the moment on when the server refuses calls
                call_until_refused(stub)
            if transport == "native":  # whose connections stay open, so that a probe on one learns that it stops
                assert status_of(live.health, "") == "NOT_SERVING"
        assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
        assert stopping.is_alive()
        gate.open()
        assert [outputs(call.result())["value"].tolist() for call in calls] == [[10]] * 3
        stopping.join(TIMEOUT)
        assert not stopping.is_alive()


def test_calls_that_outlast_the_grace_period_are_cancelled(repository: Path) -> None:
    with (
        LiveServer(ServerConfig(models=repository, port=0, http_port=-1, transport="grpc")) as live,
        live.gate("gather") as gate,
    ):
        call = live.inference.ModelInfer.future(request("gather", index=index(1)), timeout=TIMEOUT)
        gate.wait_until_computing()
        stopping = threading.Thread(target=live.server.stop, args=(0,))
        stopping.start()
        assert call.exception(TIMEOUT).code() is grpc.StatusCode.UNAVAILABLE
        gate.open()
        stopping.join(TIMEOUT)
        assert not stopping.is_alive()


def test_clients_that_leave_their_watches_do_not_stop_the_server(own: LiveServer) -> None:
    def come_and_go() -> None:
        with own.connect() as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for _ in range(50):
                call = health.Watch(health_pb2.HealthCheckRequest(service=""), timeout=TIMEOUT)
                assert next(call).status == health_pb2.HealthCheckResponse.SERVING
                call.cancel()

    with futures.ThreadPoolExecutor(8) as pool:
        for caller in [pool.submit(come_and_go) for _ in range(8)]:
            caller.result(TIMEOUT)
    assert status_of(own.health, "") == "SERVING"
    own.server.stop(grace=3600)


def test_the_number_of_watches_is_limited_and_one_that_ends_makes_room(few: Path, transport: str) -> None:
    with live_server(transport, few, limits=Limits(max_watches=5)) as own:
        require_limit_of_watches(own)


def require_limit_of_watches(own: LiveServer) -> None:
    calls = [own.health.Watch(health_pb2.HealthCheckRequest(service=""), timeout=TIMEOUT) for _ in range(5)]
    assert all(next(call).status == health_pb2.HealthCheckResponse.SERVING for call in calls)
    code, message = failure(lambda: next(watch(own.health, "")))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert message == "5 Watch streams are open; poll with Check instead"
    assert status_of(own.health, "") == "SERVING"
    assert own.infer(request("gather", index=index(1)))["value"].tolist() == [10]

    calls.pop().cancel()
    ends = time.monotonic() + TIMEOUT
    state = ""
    while state != "SERVING":  # the server hears of the cancelled one a little later
        assert time.monotonic() < ends
        with contextlib.suppress(grpc.RpcError):
            state = next(watch(own.health, ""))
    own.server.stop(grace=3600)
    for call in calls:
        assert [response.status for response in call] == [health_pb2.HealthCheckResponse.NOT_SERVING]


def test_a_server_that_cannot_load_releases_its_port(models: Path) -> None:
    (models / "broken/1").mkdir(parents=True)
    (models / "broken/1/model.onnx").write_bytes(b"nonsense")
    server = Server(ServerConfig(models=models, port=0, http_port=-1))
    with pytest.raises(ModelLoadError, match=r"broken/1/model\.onnx cannot be loaded"):
        server.start()
    (models / "broken/1/model.onnx").unlink()
    (models / "broken/1").rmdir()
    (models / "broken").rmdir()
    with Server(ServerConfig(models=models, port=server.port, http_port=-1)) as again:
        assert again.port == server.port


def test_a_port_in_use_is_an_error_that_names_it(live: LiveServer, models: Path) -> None:
    server = Server(ServerConfig(models=models, port=live.server.port, http_port=-1))
    with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{live.server.port}: another program has"):
        server.start()


def test_an_address_that_is_not_this_machines_is_an_error(models: Path) -> None:
    with pytest.raises(StartError, match=r"cannot listen on 192\.0\.2\.1:8001"):
        Server(ServerConfig(models=models, host="192.0.2.1", http_port=-1)).start()


def test_it_listens_on_version_6_addresses(models: Path) -> None:
    with LiveServer(ServerConfig(models=models, host="::1", port=0, http_port=-1)) as live:
        assert live.server.address.startswith("[::1]:")
        assert live.infer(request("gather", index=index(2)))["value"].tolist() == [20]
