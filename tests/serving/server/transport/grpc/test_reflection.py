"""Reflection streams that clients open and forget end, and take the places of nobody who uses one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2 as pb

from hangtag.serving.server.config.limits import Limits
from tests.kit.conversation import Conversation
from tests.kit.live import LiveServer
from tests.kit.over_http import live_server

pytestmark = pytest.mark.slow

LIST = pb.ServerReflectionRequest(list_services="")


def opened(live: LiveServer, version: str, *sent: Any) -> Conversation:
    method = live.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=pb.ServerReflectionRequest.SerializeToString,
        response_deserializer=pb.ServerReflectionResponse.FromString,
    )
    return Conversation(method, *sent)


@pytest.fixture(scope="module")
def limited(few: Path, transport: str) -> Iterator[LiveServer]:
    with live_server(transport, few, limits=Limits(reflection_seconds=0.5)) as live:
        yield live


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
