"""Callers who make the server hold memory: answers that are too large or never taken, and forgotten streams."""

import os
import resource
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import grpc
import numpy as np
import pytest

from tests.kit.http2 import DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, connect, frame, header
from tests.kit.live import TIMEOUT, failure, request
from tests.kit.rest import Rest, tensor
from tests.kit.waiting import until
from tests.serving.server.fuzz.conftest import INFER
from tests.serving.server.hostile.conftest import REFLECTION, Attacked

pytestmark = pytest.mark.slow

MIB = 1 << 20
FLAT = 48 * MIB
"""Bytes that the process may hold after a second attack beyond what it held after a first one."""
STREAMS_PER_CONNECTION = 100  # the default of --max-concurrent-streams
MOST_STREAMS = 1000
MOST_CALLS = 6000  # more than gRPC's core admits at once
MAX_CONNECTIONS = 1024  # the default of --max-connections
FORGOTTEN = int(os.environ.get("FORGOTTEN_CALLS", "0"))
"""How many calls are opened and forgotten, where it is more than a test needs."""
CLOSED_WINDOW = struct.pack(">HI", 4, 0)  # SETTINGS_INITIAL_WINDOW_SIZE: the server may send no DATA


def headers(path: str, stream: int) -> bytes:
    fields = ((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "hostile"))
    more = (("content-type", "application/grpc"), ("te", "trailers"))
    return frame(HEADERS, b"".join(header(*field) for field in (*fields, *more)), flags=END_HEADERS, stream=stream)


@contextmanager
def connection(target: Attacked) -> Iterator[socket.socket]:
    """A connection whose client grants no window for answers, and throws away the frames that come all the same."""
    with connect(target.address, PREFACE + frame(SETTINGS, CLOSED_WINDOW)) as client:

        def discard() -> None:
            try:
                while client.recv(65536):
                    pass
            except OSError:
                return

        reader = threading.Thread(target=discard)
        reader.start()
        try:
            yield client
        finally:
            with suppress(OSError):  # the server has ended it
                client.shutdown(socket.SHUT_RDWR)
            reader.join(TIMEOUT)


@pytest.mark.parametrize("over_http", [False, True], ids=["grpc", "http"])
def test_outputs_that_are_too_large_are_refused_and_not_copied(target: Attacked, over_http: bool) -> None:
    """The outputs take 256 MiB in ONNX Runtime's arena, which grows by doubling, and as an array. A message would copy
    them three times more, and a list of their numbers take 2 GiB."""
    sent = request("filled", shape=np.array([8192, 8192], np.int64))
    before = target.memory()
    for _ in range(2):
        if over_http:
            with Rest(target.http_address) as rest:
                answer = rest.infer_json("filled", tensor("shape", "INT64", [2], [8192, 8192]))
            assert answer.status == 413
            error = answer.error
        else:
            code, error = failure(lambda: target.call(INFER, sent.SerializeToString()))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error == f"SERVER: Sent message larger than max ({256 * MIB} vs. {16 * MIB})"
        assert target.most_memory() - before < 4 * 256 * MIB
    assert target.failures() == []


def test_answers_that_are_never_taken_hold_up_nobody_and_their_memory_is_used_again(target: Attacked) -> None:
    sent = request("tiled", x=np.ones((1, 100), np.float32)).SerializeToString()
    message = b"\x00" + struct.pack(">I", len(sent)) + sent
    calls = b"".join(
        headers(INFER, stream) + frame(DATA, message, flags=END_STREAM, stream=stream)
        for stream in range(1, 2 * STREAMS_PER_CONNECTION, 2)
    )

    def attack() -> None:
        answered = target.answered("tiled")
        with ExitStack() as clients:
            for _ in range(2):  # as many calls as the queue holds
                clients.enter_context(connection(target)).sendall(calls)
            target.wait_until_answered("tiled", answered + 2 * STREAMS_PER_CONNECTION)
            target.require_answer()

    attack()
    before = target.memory()
    for _ in range(12):  # answers of 8 MB each time
        attack()
    target.wait_for_memory(before + FLAT)


def forget(target: Attacked, path: str, count: int, stack: ExitStack) -> None:
    """Open calls of a method, as many on each connection as it may have, and send no message."""
    opened = b"".join(headers(path, 2 * number + 1) for number in range(STREAMS_PER_CONNECTION))
    for _ in range(count // STREAMS_PER_CONNECTION):
        stack.enter_context(connection(target)).sendall(opened)


def test_streams_that_are_opened_and_forgotten_are_limited_and_end_with_their_connections(target: Attacked) -> None:
    count = max(MOST_STREAMS + STREAMS_PER_CONNECTION, FORGOTTEN)  # a stream of the test before may still be open
    for _ in range(2):
        with ExitStack() as stack:
            forget(target, "/inference.GRPCInferenceService/ModelStreamInfer", count, stack)
            target.wait_for_streams(refused=True)
            target.require_answer()
            target.require_others()
        target.wait_for_streams(refused=False)


@pytest.mark.parametrize(
    "path", [INFER, "/inference.GRPCInferenceService/ServerLive", *map(REFLECTION.format, ("v1", "v1alpha"))]
)
def test_calls_that_are_opened_and_forgotten_take_nobodys_place(target: Attacked, path: str) -> None:
    """Without an end of those that wait longest, a few thousand of them are all the calls that gRPC's core admits."""
    with ExitStack() as stack:
        forget(target, path, max(MOST_CALLS, FORGOTTEN), stack)
        for _ in range(20):  # while they are opened, and afterwards
            target.require_answer()
            target.require_others()
        target.require_reflection()


def is_live(target: Attacked) -> bool:
    with Rest(target.http_address) as rest:
        return rest.get("/v2/health/live").status == 200


def test_http_requests_that_are_begun_and_forgotten_are_limited_and_hold_up_no_calls_over_grpc(
    target: Attacked,
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(max(MAX_CONNECTIONS + 50, FORGOTTEN), limits[1] - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    host, _, port = target.http_address.rpartition(":")
    try:
        with ExitStack() as stack:
            for _ in range(count):
                client = stack.enter_context(socket.create_connection((host, int(port)), TIMEOUT))
                with suppress(OSError):  # it is refused already
                    client.sendall(b"POST /v2/models/tiled/infer HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\n{")
            with Rest(target.http_address) as rest:
                assert rest.get("/v2/health/live").status == 503
            target.require_answer()
            before = target.memory()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    until(lambda: is_live(target))  # it has closed those that have left
    target.wait_for_memory(before + FLAT)
