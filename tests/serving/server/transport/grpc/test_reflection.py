"""Reflection streams that clients open and forget end, and take the places of nobody who uses one."""

from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2 as pb

from hangtag.serving.server.transport.grpc import reflection
from tests.kit.live import LiveServer
from tests.serving.server.transport.grpc.streams.conversation import Conversation

pytestmark = pytest.mark.slow

LIST = pb.ServerReflectionRequest(list_services="")


def opened(live: LiveServer, version: str, *sent: Any) -> Conversation:
    method = live.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=pb.ServerReflectionRequest.SerializeToString,
        response_deserializer=pb.ServerReflectionResponse.FromString,
    )
    return Conversation(method, *sent)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
@pytest.mark.parametrize("sent", [(), (LIST,)], ids=["unused", "used once"])
def test_a_forgotten_stream_ends(
    live: LiveServer, monkeypatch: pytest.MonkeyPatch, version: str, sent: tuple[Any, ...]
) -> None:
    monkeypatch.setattr(reflection, "REFLECTION_SECONDS", 0.5)
    stream = opened(live, version, *sent)
    for _ in sent:
        assert stream.receive().list_services_response.service
    code, details = stream.end()
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert details.startswith("a reflection stream may be open for 0.5 s")
    assert len(opened(live, version, LIST).finish()) == 1
    stream.send(None)


def test_of_too_many_streams_the_one_ends_that_has_been_open_for_longest(
    live: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflection, "MAX_REFLECTIONS", 3)
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
