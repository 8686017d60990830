"""The health service and gRPC's reflection describe the server and its models."""

import shutil
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.errors import ModelLoadError
from tests.kit.conversation import Conversation
from tests.kit.live import LiveServer, failure, index, request, status_of, watch
from tests.kit.over_http import live_server
from tests.kit.waiting import TIMEOUT, until

pytestmark = pytest.mark.quick


def test_health_while_the_server_serves(live: LiveServer) -> None:
    for service in ("", "inference.GRPCInferenceService", "hangtag.v1.Classifier", "classifier", "lstm"):
        assert status_of(live.health, service) == "SERVING"
    assert failure(lambda: status_of(live.health, "nobody"))[0] is grpc.StatusCode.NOT_FOUND
    assert next(watch(live.health, "nobody")) == "SERVICE_UNKNOWN"


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
    with live_server(transport, few, limits=Limits(max_watches=5)) as own, own.connect() as channel:
        silent: Any = channel.stream_stream("/grpc.health.v1.Health/Watch")
        sends_nothing = Conversation(silent)
        calls = [own.health.Watch(health_pb2.HealthCheckRequest(service=""), timeout=TIMEOUT) for _ in range(4)]
        assert all(next(call).status == health_pb2.HealthCheckResponse.SERVING for call in calls)
        until(lambda: not is_watched(own))
        code, message = failure(lambda: next(watch(own.health, "")))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert message == "5 Watch streams are open; poll with Check instead"
        assert status_of(own.health, "") == "SERVING"
        assert own.infer(request("gather", index=index(1)))["value"].tolist() == [10]

        sends_nothing.send(None)
        until(lambda: is_watched(own))  # the server notices the cancelled Watch only a little later
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
    refused = live_server("auto", models)
    with pytest.raises(ModelLoadError, match=r"broken/1/model\.onnx cannot be loaded"):
        refused.server.start()
    shutil.rmtree(models / "broken")
    with live_server("auto", models, port=refused.server.port) as live:
        assert live.infer(request("gather", index=index(2)))["value"].tolist() == [20]


LIST = reflection_pb2.ServerReflectionRequest(list_services="")


def opened(live: LiveServer, version: str, *sent: Any) -> Conversation:
    method = live.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return Conversation(method, *sent)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_lists_the_services_and_describes_them(live: LiveServer, version: str) -> None:
    described = reflection_pb2.ServerReflectionRequest(file_containing_symbol="hangtag.v1.Classifier")
    listed, file = opened(live, version, LIST, described).finish()
    assert len(file.file_descriptor_response.file_descriptor_proto) >= 1
    assert {service.name for service in listed.list_services_response.service} >= {
        "inference.GRPCInferenceService",
        "hangtag.v1.Classifier",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }


@pytest.mark.slow
def test_a_forgotten_stream_ends_and_another_is_answered(few: Path, transport: str) -> None:
    with live_server(transport, few, limits=Limits(reflection_seconds=0.3)) as live:

        def answers_before_the_end(version: str, *sent: Any) -> int:
            stream, answers = opened(live, version, *sent), []
            code, details = failure(lambda: answers.extend(stream.call))
            assert code is grpc.StatusCode.DEADLINE_EXCEEDED
            assert details.startswith("a reflection stream may be open for 0.3 s")
            stream.send(None)
            return len(answers)

        for version in ("v1", "v1alpha"):
            assert answers_before_the_end(version) == 0
            # On a busy machine, the answer may take longer than 0.3 s, after which the server ends the stream.
            until(lambda version=version: answers_before_the_end(version, LIST) == 1)  # type: ignore[misc]
