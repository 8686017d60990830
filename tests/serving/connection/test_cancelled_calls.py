"""Calls that are cancelled, or whose deadline passes, end no others, though nobody tries them again."""

import asyncio
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hangtag.serving.client import AsyncClient, Client, ClientError, ConnectionOptions
from hangtag.serving.connection.errors import ClosedError
from hangtag.serving.connection.resets import MOST_RESETS
from hangtag.serving.server.config.server_config import ServerConfig
from tests.kit import onnx_models
from tests.kit.http2 import GOAWAY, HEADERS, PREFACE, SETTINGS, frame
from tests.kit.kinds import TIMEOUT, Kind, asynchronous_kinds
from tests.kit.link import link
from tests.kit.live import LiveServer
from tests.kit.waiting import until

NEVER = ConnectionOptions(retries=0)
INDEX = {"index": np.array([1])}
IMAGE = np.zeros((28, 28), np.uint8)
TASKS, THREADS, ROUNDS = 16, 64, 60


async def infer(client: AsyncClient) -> Any:
    return await client.infer("gather", INDEX)


async def infer_over_a_stream(client: AsyncClient) -> Any:
    async with aclosing(client.infer_stream("gather", [INDEX])) as answers:
        return [answer async for answer in answers]


async def classify(client: AsyncClient) -> Any:
    return await client.classify(IMAGE, "classifier")


async def compare(client: AsyncClient) -> Any:
    return await client.compare(IMAGE, ["classifier", "gather"])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    onnx_models.publish(folder, "gather", onnx_models.gather())
    onnx_models.publish(folder, "classifier", onnx_models.classifier())
    return folder


@pytest.fixture(scope="module", params=["native", "grpc"])
def live(models: Path, request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    with LiveServer(ServerConfig(models=models, port=0, http_port=0, instances=1, transport=request.param)) as running:
        yield running


async def cancel_again_and_again(client: AsyncClient, ask: Callable[[AsyncClient], Awaitable[Any]], turns: int) -> None:
    """turns: of the event loop, after which each call is cancelled."""
    for _ in range(ROUNDS):
        call = asyncio.ensure_future(ask(client))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call


@asynchronous_kinds
@pytest.mark.parametrize("ask", [infer, infer_over_a_stream, classify, compare])
def test_calls_that_are_cancelled_end_no_others_and_are_not_computed(
    kind: Kind, ask: Callable[[AsyncClient], Awaitable[Any]], live: LiveServer
) -> None:
    async def run() -> list[Any]:
        async with AsyncClient(kind.text(kind.of(live.server)), timeout=TIMEOUT, options=NEVER) as client:
            patient = [asyncio.ensure_future(infer(client))]
            await asyncio.to_thread(gate.wait_until_computing)
            patient += [asyncio.ensure_future(infer(client)) for _ in range(3)]
            await asyncio.to_thread(gate.wait_until_queued, 4)
            await asyncio.gather(*(cancel_again_and_again(client, ask, 1 + 2 * (task % 8)) for task in range(TASKS)))
            await client.models()
            await asyncio.to_thread(wait_until_empty, live, but_for=3)
            gate.open()
            return await asyncio.gather(*patient)

    before = live.statistics("gather").inference_count
    with live.gate("gather") as gate:
        answers = asyncio.run(run())
    assert [answer["value"].tolist() for answer in answers] == [[10]] * 4
    assert live.statistics("gather").inference_count - before == 4


def wait_until_empty(live: LiveServer, *, but_for: int) -> None:
    """Wait until the server has dropped all but so many of the calls in a queue."""
    until(lambda: len(live.model("gather").batcher) <= but_for)


def test_calls_whose_deadline_passes_end_none_of_another_client(live: LiveServer) -> None:
    """A program's clients of one server share no connection."""

    def hurry() -> None:
        for _ in range(ROUNDS):
            with suppress(ClientError):
                hasty.infer("gather", INDEX)

    with (
        Client(live.server.address, timeout=TIMEOUT, options=NEVER) as client,
        Client(live.server.address, timeout=0.001, options=NEVER) as hasty,
        ThreadPoolExecutor(1 + THREADS) as pool,
        live.gate("gather") as gate,
    ):
        patient = pool.submit(client.infer, "gather", INDEX)
        gate.wait_until_computing()
        for done in [pool.submit(hurry) for _ in range(THREADS)]:
            done.result(TIMEOUT)
        gate.open()
        assert patient.result(TIMEOUT)["value"].tolist() == [10]


@pytest.mark.parametrize("kind", [Kind(asynchronous=False, http=False), Kind(asynchronous=True, http=False)], ids=str)
def test_each_client_has_a_connection_of_its_own(kind: Kind, live: LiveServer) -> None:
    with link(live.server.address) as to, kind.open(to.address) as one, kind.open(to.address) as another:
        assert one.is_ready()
        assert another.is_ready()
        assert to.connections == 2


@pytest.mark.parametrize("kind", [Kind(asynchronous=False, http=False), Kind(asynchronous=True, http=False)], ids=str)
def test_the_end_of_a_connection_with_too_many_cancelled_calls_is_explained(kind: Kind) -> None:
    going_away = frame(GOAWAY, struct.pack(">II", 1, 11) + b"too_many_resets")

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as received:
            assert received.read(len(PREFACE)) == PREFACE
            connection.sendall(frame(SETTINGS))
            kind = SETTINGS
            while kind != HEADERS:
                head = received.read(9)
                received.read(int.from_bytes(head[:3], "big"))
                kind = head[3]
            connection.sendall(going_away)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        served = pool.submit(serve)
        with kind.open(address, timeout=TIMEOUT, options=NEVER) as client, pytest.raises(ClientError) as caught:
            client.models()
        served.result(TIMEOUT)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert str(caught.value).startswith(
        f"the server at {address} ended the connection, because too many calls on it were"
    )


class Silent(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the package has no types
    """Answers no health check, by which a client makes sure that the server has accepted its calls."""

    def __init__(self) -> None:
        self.stops = threading.Event()

    def Check(self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext) -> Any:
        assert self.stops.wait(TIMEOUT)
        return health_pb2.HealthCheckResponse()


@contextmanager
def silent_server() -> Iterator[str]:
    with ThreadPoolExecutor(2 * MOST_RESETS) as pool:
        server = grpc.server(pool)
        servicer = Silent()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            servicer.stops.set()
            server.stop(None).wait()


async def cancel_many(client: AsyncClient) -> None:
    """Cancel more calls than may be reset before the server is known to have accepted them."""
    calls = [asyncio.ensure_future(client.is_ready()) for _ in range(MOST_RESETS + 2)]
    for _ in range(8):  # turns of the event loop, so that all have begun
        await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize(
    ("timeout", "code", "message"),
    [
        (0.1, grpc.StatusCode.DEADLINE_EXCEEDED, "within 0.1 s"),
        (TIMEOUT, grpc.StatusCode.UNIMPLEMENTED, "Method not found"),  # the server's answer
    ],
)
def test_a_call_after_many_that_were_cancelled_waits_a_moment_at_most(
    timeout: float, code: grpc.StatusCode, message: str
) -> None:
    async def run() -> list[str]:
        async with AsyncClient(address, timeout=timeout, options=NEVER) as client:
            await cancel_many(client)
            return await client.models()

    with silent_server() as address, pytest.raises(ClientError, match=message) as caught:
        asyncio.run(run())
    assert caught.value.code is code


def test_closing_ends_the_calls_that_wait_for_others_to_be_accepted() -> None:
    async def run() -> None:
        client = AsyncClient(address, timeout=TIMEOUT, options=NEVER)
        await cancel_many(client)
        waiting = [asyncio.ensure_future(client.models()), asyncio.ensure_future(infer_over_a_stream(client))]
        for _ in range(8):
            await asyncio.sleep(0)
        await client.close()
        for each in waiting:
            with pytest.raises(ClosedError):
                await each

    with silent_server() as address:
        asyncio.run(run())
