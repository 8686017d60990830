"""Calls whose message does not come: they end after a time, and do not take the places of others."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.transport.grpc import awaited_messages
from tests.kit.live import LiveServer, index, request
from tests.kit.over_http import live_server
from tests.kit.waiting import TIMEOUT, until

INFER = "/inference.GRPCInferenceService/ModelInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"
WATCH = "/grpc.health.v1.Health/Watch"
IN_TIME = "did not come in time"


@pytest.fixture
def served(few: Path, limits: Limits) -> Iterator[LiveServer]:
    with live_server("grpc", few, limits=limits) as live:
        yield live


@pytest.fixture
def limits() -> Limits:
    return Limits()


class Unsent:
    """A call that is open, and whose message is sent when it is released."""

    def __init__(self, live: LiveServer, method: str, message: bytes = b"") -> None:
        self._released = threading.Event()
        self._message = message
        stream: Any = live.channel.stream_stream if method == WATCH else live.channel.stream_unary
        open_call = stream(method) if method == WATCH else stream(method).future
        self.call: Any = open_call(self._messages(), timeout=TIMEOUT)

    def release(self) -> None:
        self._released.set()

    def status(self) -> tuple[grpc.StatusCode, str]:
        return self.call.code(), self.call.details()

    def _messages(self) -> Iterator[bytes]:
        assert self._released.wait(TIMEOUT)
        yield self._message


@pytest.mark.parametrize("limits", [Limits(message_seconds=0.1)])
@pytest.mark.parametrize("method", [INFER, LIVE, WATCH])
def test_a_call_ends_whose_message_does_not_come(served: LiveServer, method: str) -> None:
    unsent = Unsent(served, method)
    code, details = unsent.status()
    assert (code, IN_TIME in details) == (grpc.StatusCode.DEADLINE_EXCEEDED, True)
    unsent.release()
    assert served.infer(request("gather", index=index(1)))["value"].tolist() == [10]


@pytest.mark.parametrize("method", [INFER, LIVE])
def test_a_call_without_a_message_is_the_callers_error(served: LiveServer, method: str) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        served.channel.stream_unary(method)(iter(()), timeout=TIMEOUT)
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "no message" in str(failed.value.details())


@pytest.mark.parametrize("limits", [Limits(max_awaited_messages=3)])
def test_of_too_many_calls_without_a_message_those_end_that_waited_longest(served: LiveServer) -> None:
    sent = request("gather", index=index(1)).SerializeToString()
    calls = [Unsent(served, INFER, sent) for _ in range(5)]
    until(lambda: sum(call.call.done() for call in calls) >= 2)  # which they are depends on when each has come
    for call in calls:
        if call.call.done():
            code, details = call.status()
            assert (code, IN_TIME in details) == (grpc.StatusCode.DEADLINE_EXCEEDED, True)
    # These bring their message with them, and yet each took a place for a moment.
    assert served.inference.ServerReady(pb.ServerReadyRequest(), timeout=TIMEOUT).ready
    assert served.health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT).status
    for call in calls:
        call.release()
    assert grpc.StatusCode.OK in [call.call.code() for call in calls]


def test_a_call_takes_the_place_of_one_whose_time_is_over_already() -> None:
    """Its time can no longer be set then: asyncio raises RuntimeError."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        places: dict[asyncio.Timeout, None] = {}

        async def wait_for_long() -> None:
            async with asyncio.timeout(0.01) as time_limit:
                awaited_messages.take_place(places, 1, time_limit)
                await loop.create_future()

        waiting = loop.create_task(wait_for_long())
        await asyncio.sleep(0)
        (longest,) = places
        newer = asyncio.timeout(None)
        loop.call_at((longest.when() or 0) + 1e-6, awaited_messages.take_place, places, 1, newer)
        time.sleep(0.05)  # so that the loop meets both times at once, before the first call can end
        with pytest.raises(TimeoutError):
            await waiting
        assert list(places) == [newer]

    asyncio.run(scenario())
