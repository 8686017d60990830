"""The health service and server reflection: what they say of the server and its models."""

import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import inference_pb2_grpc
from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.runtime.session import Runtime
from tests.kit import onnx_models
from tests.kit.conversation import Conversation
from tests.kit.live import LiveServer, failure, index, outputs, request, status_of, watch
from tests.kit.over_http import live_server
from tests.kit.waiting import TIMEOUT, until

SERVICES = ("", "inference.GRPCInferenceService", "hangtag.v1.Classifier")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return onnx_models.publish_all(tmp_path, "gather")


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
        calls = [own.health.Watch(health_pb2.HealthCheckRequest(service=""), timeout=TIMEOUT) for _ in range(5)]
        assert all(next(call).status == health_pb2.HealthCheckResponse.SERVING for call in calls)
        code, message = failure(lambda: next(watch(own.health, "")))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert message == "5 Watch streams are open; poll with Check instead"
        assert status_of(own.health, "") == "SERVING"
        assert own.infer(request("gather", index=index(1)))["value"].tolist() == [10]

        calls.pop().cancel()
        until(lambda: is_watched(own))  # the server hears of the cancelled one a little later
        own.server.stop(grace=3600)
        for call in calls:
            assert [response.status for response in call] == [health_pb2.HealthCheckResponse.NOT_SERVING]


def is_watched(live: LiveServer) -> bool:
    try:
        return next(watch(live.health, "")) == "SERVING"
    except grpc.RpcError:
        return False


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


def test_it_listens_on_version_6_addresses(models: Path) -> None:
    with live_server("auto", models, host="::1") as live:
        assert live.server.address.startswith("[::1]:")
        assert live.infer(request("gather", index=index(2)))["value"].tolist() == [20]


LIST = reflection_pb2.ServerReflectionRequest(list_services="")


def opened(live: LiveServer, version: str, *sent: Any) -> Conversation:
    method = live.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return Conversation(method, *sent)


@pytest.fixture(scope="module")
def limited(few: Path, transport: str) -> Iterator[LiveServer]:
    with live_server(transport, few, limits=Limits(reflection_seconds=0.5)) as live:
        yield live


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v1", "v1alpha"])
@pytest.mark.parametrize("sent", [(), (LIST,)], ids=["unused", "used once"])
def test_a_forgotten_stream_ends(limited: LiveServer, version: str, sent: tuple[Any, ...]) -> None:
    stream = opened(limited, version, *sent)
    for _ in sent:
        assert stream.receive().list_services_response.service
    code, details = stream.end()
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert details.startswith("a reflection stream may be open for 0.5 s")
    assert len(opened(limited, version, LIST).finish()) == 1
    stream.send(None)


@pytest.mark.slow
def test_of_too_many_streams_the_one_ends_that_has_been_open_for_longest(few: Path, transport: str) -> None:
    with live_server(transport, few, limits=Limits(max_reflections=3)) as live:
        streams = []
        for version in ("v1", "v1alpha", "v1", "v1", "v1alpha"):  # which share the places
            streams.append(opened(live, version, LIST))
            assert streams[-1].receive().list_services_response.service
        for stream in streams[:2]:
            code, details = stream.end()
            assert (code, "less long where 3 newer ones are" in details) == (grpc.StatusCode.DEADLINE_EXCEEDED, True)
            stream.send(None)
        for stream in streams[2:]:
            stream.send(LIST)
            assert len(stream.finish()) == 1
