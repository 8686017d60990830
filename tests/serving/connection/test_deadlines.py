"""A call ends at its deadline, or at Ctrl-C, even if the peer connects, reads or answers very slowly."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hangtag import AsyncClient, ClientError
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from tests.kit.kinds import Kind, http_kinds
from tests.kit.link import link
from tests.kit.live import LiveServer
from tests.kit.other_servers import Pause, listener, say_nothing, unreachable, web_server
from tests.kit.waiting import TIMEOUT, pass_time

STEPS, PAUSE = 600, 0.1
"""A slow peer takes a minute, which is much longer than the deadlines of the calls."""
IN_TIME = STEPS * PAUSE / 2
INDEX = {"index": np.array([1])}
LATE = grpc.StatusCode.DEADLINE_EXCEEDED


def require_late(call: Callable[[], object], seconds: float, *codes: grpc.StatusCode) -> None:
    began = time.monotonic()
    with pytest.raises(ClientError) as caught:
        call()
    assert caught.value.code in (LATE, *codes)
    assert time.monotonic() - began < IN_TIME
    assert codes or f"within {seconds:g} s" in str(caught.value)


def test_a_late_call_ends_and_the_server_drops_it(kind: Kind, models: Path) -> None:
    config = ServerConfig(models=models, port=0, http_port=0, instances=1)
    with (
        LiveServer(config) as live,
        kind.open(kind.of(live.server), timeout=TIMEOUT) as patient,
        kind.open(kind.of(live.server), timeout=0.5) as hasty,
        ThreadPoolExecutor() as pool,
    ):
        with live.gates.closed("gather") as gate:
            computed = pool.submit(patient.infer, "gather", INDEX)
            gate.wait_until_computing()
            require_late(lambda: hasty.infer("gather", INDEX), 0.5)
            live.wait_until_queued("gather", 0)
        assert computed.result(TIMEOUT)["value"].tolist() == [10]
        assert live.statistics("gather").inference_count == 1


def test_a_server_that_says_nothing(kind: Kind) -> None:
    with listener(say_nothing) as address, kind.open(address, timeout=0.2) as client:
        require_late(client.models, 0.2, grpc.StatusCode.UNAVAILABLE)  # over gRPC, the client has no connection yet


@http_kinds
def test_a_deadline_that_passes_before_there_is_a_connection_is_no_unreachable_server(
    kind: Kind, server: Server
) -> None:
    with kind.open(kind.of(server), timeout=1e-6) as client:
        require_late(lambda: client.infer("gather", INDEX), 1e-6)


@pytest.mark.parametrize("turns", range(12))
def test_a_stream_whose_deadline_passes_while_the_event_loop_is_busy_is_late(server: Server, turns: int) -> None:
    async def outcome() -> ClientError | None:
        async with AsyncClient(server.address) as client:
            await client.infer("gather", INDEX)
            stream = client.infer_stream("gather", [INDEX] * 3, timeout=0.02)
            answers = asyncio.ensure_future(anext(stream))
            for _ in range(turns):  # let the event loop run the stream for this many steps
                await asyncio.sleep(0)
            pass_time(0.04)  # blocks the event loop, like a CPU-bound coroutine
            try:
                await answers
            except ClientError as error:
                return error
            finally:
                await stream.aclose()
        return None

    error = asyncio.run(outcome())
    assert error is None or error.code is LATE, error


def trickle(beginning: bytes) -> Callable[[socket.socket, Pause], None]:
    def talk(connection: socket.socket, pause: Pause) -> None:
        connection.recv(1 << 16)
        connection.sendall(beginning)
        for _ in range(STEPS):
            if pause(PAUSE):
                return
            connection.sendall(b"x")

    return talk


def take_slowly(connection: socket.socket, pause: Pause) -> None:
    for _ in range(STEPS):
        if pause(PAUSE):
            return
        taken = 0
        while taken < 1 << 16:  # at this speed, 32 MiB take most of a minute
            part = connection.recv(1 << 16)
            if not part:
                return
            taken += len(part)


@http_kinds
@pytest.mark.parametrize("beginning", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"])
def test_an_answer_that_trickles(kind: Kind, beginning: bytes) -> None:
    with listener(trickle(beginning)) as address, kind.open(address, timeout=0.3) as client:
        require_late(client.models, 0.3)


@http_kinds
def test_a_large_request_that_is_taken_slowly(kind: Kind) -> None:
    large = {"image": np.zeros(32 << 20, np.uint8)}
    with listener(take_slowly) as address, kind.open(address, timeout=0.8) as client:
        require_late(lambda: client.infer("any", large), 0.8)


def test_an_address_that_does_not_answer_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test replaces Python's getaddrinfo, and uses the only client that always calls this function."""
    looked_up, kind = socket.getaddrinfo, Kind(asynchronous=True, http=True)

    def getaddrinfo(host: Any, *arguments: Any, **settings: Any) -> list[Any]:
        names = ("127.0.0.2", "127.0.0.1") if host in ("several.example", b"several.example") else (host,)
        return [address for name in names for address in looked_up(name, *arguments, **settings)]

    with web_server(lambda _: (200, {}, b"[]")) as address:
        port = address.rpartition(":")[2]
        with unreachable("127.0.0.2", int(port)), kind.open(f"several.example:{port}", timeout=1) as client:
            monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
            assert client.models() == []


@http_kinds
def test_calls_one_after_another_share_a_connection(kind: Kind, server: Server) -> None:
    with link(kind.of(server)) as to, kind.open(to.address) as client:
        for _ in range(3):
            assert client.is_ready("gather")
        assert to.connections == 1


def test_ctrl_c_is_raised_in_every_client(kind: Kind) -> None:
    interrupted: list[int] = []

    def interrupt(connection: socket.socket, pause: Pause) -> None:
        """Interrupt this process when the first client connects. A second interrupt would end pytest."""
        connection.recv(1)
        if not interrupted:
            interrupted.append(os.getpid())
            os.kill(os.getpid(), signal.SIGINT)
        pause(TIMEOUT)

    async def infer() -> None:
        async with AsyncClient(kind.text(address), timeout=TIMEOUT) as client:
            await client.infer("gather", INDEX)

    def call() -> None:
        if kind.asynchronous:
            asyncio.run(infer())
        else:
            with kind.open(address, timeout=TIMEOUT) as client:
                client.infer("gather", INDEX)

    with listener(interrupt) as address, pytest.raises(KeyboardInterrupt):
        call()
