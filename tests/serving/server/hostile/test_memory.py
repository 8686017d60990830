"""Callers must not exhaust the server's memory with large answers, unread answers, or forgotten streams."""

import os
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.kit import onnx_models
from tests.kit.command import serving
from tests.kit.http2 import DATA, END_STREAM, PREFACE, SETTINGS, call, frame
from tests.kit.live import failure, outputs, request
from tests.kit.over_http import ENVOY, options_of
from tests.kit.raw import connect
from tests.kit.rest import Rest, tensor
from tests.kit.target import INFER, REFLECTION, TIMES, Attacked
from tests.kit.waiting import TIMEOUT, until

pytestmark = pytest.mark.slow

MIB = 1 << 20
FLAT = 48 * MIB
"""The number of bytes by which the process may grow after the first attack."""
STREAMS_PER_CONNECTION = 100  # the default of --max-concurrent-streams
MOST_STREAMS = 1000
MOST_CALLS = 6000  # More calls than gRPC's core admits at a time.
MAX_CONNECTIONS = 1024  # The default of --max-connections.
FORGOTTEN = int(os.environ.get("FORGOTTEN_CALLS", "0"))
"""If a test opens calls or connections and leaves them idle, it opens at least this many."""
CLOSED_WINDOW = struct.pack(">HI", 4, 0)  # SETTINGS_INITIAL_WINDOW_SIZE = 0, so that the server may send no DATA


@contextmanager
def connection(target: Attacked) -> Iterator[socket.socket]:
    """A connection whose client grants no window for answers, and discards all frames that arrive."""
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
            with suppress(OSError):  # the server may have ended the connection
                client.shutdown(socket.SHUT_RDWR)
            reader.join(TIMEOUT)


@pytest.mark.parametrize("over_http", [False, True], ids=["grpc", "http"])
def test_outputs_that_are_too_large_are_refused_and_not_copied(target: Attacked, over_http: bool) -> None:
    """The output takes 256 MiB as an array, and more in ONNX Runtime's arena, which grows by doubling. A message
    would need three more copies of the output, and a list of its numbers would take 2 GiB."""
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
        call(stream, path=INFER) + frame(DATA, message, flags=END_STREAM, stream=stream)
        for stream in range(1, 2 * STREAMS_PER_CONNECTION, 2)
    )

    def attack() -> None:
        answered = target.answered("tiled")
        with ExitStack() as clients:
            for _ in range(2):  # the queue has room for the calls of two connections
                clients.enter_context(connection(target)).sendall(calls)
            until(lambda: target.answered("tiled") >= answered + 2 * STREAMS_PER_CONNECTION)
            target.require_answer()

    attack()
    before = target.memory()
    for _ in range(12):  # in each attack, the server computes 200 answers of 8 MB
        attack()
    target.wait_for_memory(before + FLAT)


def forget(target: Attacked, path: str, count: int, stack: ExitStack) -> None:
    """Open ``count`` calls of a method, as many on each connection as the server allows, and send no message."""
    opened = b"".join(call(2 * number + 1, path=path) for number in range(STREAMS_PER_CONNECTION))
    for _ in range(count // STREAMS_PER_CONNECTION):
        stack.enter_context(connection(target)).sendall(opened)


def test_streams_that_are_opened_and_forgotten_are_limited_and_end_with_their_connections(target: Attacked) -> None:
    count = max(MOST_STREAMS + STREAMS_PER_CONNECTION, FORGOTTEN)  # an earlier stream may still be open
    for _ in range(2):
        with ExitStack() as stack:
            forget(target, "/inference.GRPCInferenceService/ModelStreamInfer", count, stack)
            target.wait_for_streams(refused=True)
            target.require_answer()
            target.require_others()
        target.wait_for_streams(refused=False)


@pytest.mark.parametrize("path", [INFER, "/inference.GRPCInferenceService/ServerLive", REFLECTION.format("v1")])
def test_calls_that_are_opened_and_forgotten_take_nobodys_place(target: Attacked, path: str) -> None:
    """A new reflection stream above the limit closes the oldest one. Only Envoy holds back calls of other methods."""
    if target.transport != ENVOY and path != REFLECTION.format("v1"):
        return
    with ExitStack() as stack:
        forget(target, path, max(MOST_CALLS, FORGOTTEN), stack)
        for _ in range(20):  # while the calls are being opened, and afterwards
            target.require_answer()
            target.require_others()
        target.require_reflection()


def is_live(target: Attacked) -> bool:
    with suppress(OSError), Rest(target.http_address) as rest:
        return rest.get("/v2/health/live").status == 200
    return False


def test_http_requests_that_are_begun_and_forgotten_are_limited_and_hold_up_no_calls_over_grpc(
    target: Attacked,
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(max(MAX_CONNECTIONS + 50, FORGOTTEN), limits[1] - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    try:
        with ExitStack() as stack:
            for _ in range(count):
                client = stack.enter_context(connect(target.http_address))
                with suppress(OSError):  # the server may have refused the connection
                    client.sendall(b"POST /v2/models/tiled/infer HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\n{")
            # A server without Envoy still answers. Envoy closes the connections over the limit.
            assert is_live(target) == (target.transport != ENVOY)
            target.require_answer()
            before = target.memory()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    until(lambda: is_live(target))  # wait until the server has closed the ended connections
    target.wait_for_memory(before + FLAT)


STREAMS, REQUESTS, NUMBERS = 4, 200, 1000
QUIET_SECONDS = 1.0
MOST_MEMORY = 25 * MIB
"""The memory that a stream may take, including gRPC's copy. Without a limit on answers, it takes 60 to 65 MiB."""


@pytest.fixture
def small(target: Attacked, tmp_path: Path) -> Iterator[Attacked]:
    """A server over the same transport that accepts messages of 1 MiB. An answer of its model has 0.4 MiB."""
    onnx_models.publish(tmp_path, "tiled", onnx_models.tiled(TIMES))
    arguments = ("--models", str(tmp_path), "--port", "0", *options_of(target.transport), "--max-message-mib", "1")
    with serving(*arguments) as server:
        attacked = Attacked(server, target.transport)
        yield attacked
        attacked.close()


def unread(server: Attacked) -> Any:
    sent = (request("tiled", x=np.full((1, NUMBERS), value, np.float32)) for value in range(REQUESTS))
    return server.inference.ModelStreamInfer(sent, timeout=TIMEOUT)


def wait_until_quiet(server: Attacked) -> int:
    """Wait until the server answers no more requests. Return the number of answers."""
    answered, since = 0, time.monotonic()

    def is_quiet() -> bool:
        nonlocal answered, since
        if (now := server.answered("tiled")) != answered:
            answered, since = now, time.monotonic()
        return time.monotonic() - since >= QUIET_SECONDS

    until(is_quiet)
    return answered


def test_unread_streams_hold_about_a_message_each_and_go_on_to_their_end_once_they_are_read(small: Attacked) -> None:
    list(small.inference.ModelStreamInfer(iter([request("tiled", x=np.ones((1, NUMBERS), np.float32))])))
    before, answered = small.memory(), small.answered("tiled")
    streams = [unread(small) for _ in range(STREAMS)]
    count = wait_until_quiet(small) - answered
    assert count >= STREAMS
    assert small.memory() - before < STREAMS * MOST_MEMORY
    for stream in streams:
        for value, answer in enumerate(stream):
            (y,) = outputs(answer.infer_response).values()
            assert y.shape == (1, TIMES * NUMBERS)
            assert (y == value).all()
        assert value == REQUESTS - 1
