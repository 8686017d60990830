"""Which calls are retried and which are not, when a server restarts or a connection breaks."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hangtag import AsyncClient, Client, ClientError, ConnectionOptions
from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.config.server_config import ServerConfig
from tests.kit.http2 import END_HEADERS, END_STREAM, HEADERS
from tests.kit.kinds import Kind, grpc_kinds, http_kinds, message_of
from tests.kit.link import link
from tests.kit.live import LiveServer
from tests.kit.other_servers import (
    INFERENCE,
    Answer,
    Pause,
    answering_over_http2,
    grpc_server,
    listener,
    refusing,
    web_server,
)
from tests.kit.server import server as running_server
from tests.kit.waiting import TIMEOUT, until

QUICK = ConnectionOptions(retries=4, initial_backoff=0.2, max_backoff=2.0)
SOON = ConnectionOptions(initial_backoff=0.01, max_backoff=0.01)
NEVER = ConnectionOptions(retries=0)
UNAVAILABLE, UNIMPLEMENTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED
UNKNOWN = "the server may or may not have executed the call, and the client does not repeat it"


@pytest.fixture(scope="module")
def live(models: Path) -> Iterator[LiveServer]:
    with LiveServer(ServerConfig(models=models, port=0, http_port=0, instances=2)) as running:
        yield running


def gathered(client: Client, value: int = 1) -> list[float]:
    return [float(one) for one in client.infer("gather", {"index": np.array([value])})["value"]]


def test_a_refused_connection_is_tried_again(kind: Kind, live: LiveServer) -> None:
    word = "x" * (2 << 20)  # a large request is tried again, too
    with link(kind.of(live.server), refused=1) as to, kind.open(to.address, options=QUICK) as client:
        answer = client.infer("text", {"text": np.array([word], np.object_)})
        assert to.connections == 2
    assert answer["shouted"][0] == f"{word}!".encode()
    with link(kind.of(live.server), refused=1) as to, kind.open(to.address, options=NEVER) as client:
        assert message_of(UNAVAILABLE, gathered, client)


def test_a_call_outlives_the_connection_that_breaks_under_it(kind: Kind, live: LiveServer) -> None:
    with (
        live.gates.closed("gather") as gate,
        link(kind.of(live.server)) as to,
        kind.open(to.address, options=QUICK) as client,
        ThreadPoolExecutor() as pool,
    ):
        answer = pool.submit(gathered, client)
        gate.wait_until_computing()
        to.cut()
        gate.wait_until_computing()  # the retry runs in the other instance
        gate.open()
        assert answer.result(TIMEOUT) == [10]


def test_a_call_in_flight_when_its_client_is_closed(kind: Kind, live: LiveServer) -> None:
    with (
        live.gates.closed("gather") as gate,
        kind.open(kind.of(live.server), timeout=20) as client,
        ThreadPoolExecutor() as pool,
    ):
        answer = pool.submit(gathered, client)
        gate.wait_until_computing()
        client.close()
        assert message_of(grpc.StatusCode.CANCELLED, answer.result, 10)


@pytest.mark.parametrize("http", [True, False])
def test_a_stream_that_waits_for_a_request_when_its_client_is_closed(http: bool, live: LiveServer) -> None:
    async def never() -> AsyncIterator[dict[str, Any]]:
        await asyncio.Event().wait()
        yield {}

    async def outcome() -> grpc.StatusCode:
        client = AsyncClient(f"http://{live.server.http_address}" if http else live.server.address)
        answer = asyncio.ensure_future(anext(client.infer_stream("gather", never())))
        await asyncio.sleep(0.1)  # the stream has begun
        await client.close()
        with pytest.raises(ClientError) as caught:
            await asyncio.wait_for(answer, TIMEOUT)
        return caught.value.code

    assert asyncio.run(outcome()) is grpc.StatusCode.CANCELLED


def test_an_error_of_the_callers_is_not_tried_again(kind: Kind, live: LiveServer) -> None:
    before = live.statistics("gather").inference_stats.fail.count
    with kind.open(kind.of(live.server), options=QUICK) as client:
        assert message_of(grpc.StatusCode.INVALID_ARGUMENT, gathered, client, 99)
    assert live.statistics("gather").inference_stats.fail.count == before + 1


def test_the_deadline_covers_all_attempts(kind: Kind, live: LiveServer) -> None:
    slow = ConnectionOptions(retries=4, initial_backoff=60, max_backoff=60)
    with (
        link(kind.of(live.server), refused=9) as to,
        kind.open(to.address, timeout=0.3, options=slow) as client,
    ):
        assert "within 0.3 s" in message_of(grpc.StatusCode.DEADLINE_EXCEEDED, gathered, client)


@http_kinds
def test_a_deadline_that_comes_before_the_next_attempt_names_the_last_failure(kind: Kind, live: LiveServer) -> None:
    slow = ConnectionOptions(retries=4, initial_backoff=60, max_backoff=60)
    with link(kind.of(live.server), refused=9) as to, kind.open(to.address, timeout=20, options=slow) as client:
        assert "within 20 s (" in message_of(grpc.StatusCode.DEADLINE_EXCEEDED, gathered, client)


@http_kinds
def test_each_attempt_tells_the_server_what_is_left_of_the_time(kind: Kind) -> None:
    paths: list[str] = []

    def refuse(path: str) -> Answer:
        paths.append(path)
        return 503, {}, b""

    with web_server(refuse) as address, kind.open(address, options=SOON) as client:
        assert message_of(UNAVAILABLE, client.classify, np.zeros((2, 2), np.uint8), "any")
    timeouts = [int(path.partition("timeout=")[2].partition("&")[0]) for path in paths]
    assert len(timeouts) == 4
    assert timeouts == sorted(set(timeouts), reverse=True), "in microseconds"


def test_a_stream_ends_with_the_server(kind: Kind, models: Path) -> None:
    answered = threading.Event()

    def requests() -> Iterator[dict[str, Any]]:
        yield {"index": np.array([1])}
        assert answered.wait(TIMEOUT)
        server.stop(grace=0)
        yield {"index": np.array([2])}

    with running_server(models) as server, kind.open(kind.of(server), options=NEVER) as client:
        outcomes = client.infer_stream("gather", requests())
        assert isinstance(next(outcomes), dict)
        answered.set()
        assert message_of(UNAVAILABLE, list, outcomes)


def test_where_no_server_answers_every_call_says_what_to_do(kind: Kind) -> None:
    image = np.zeros((28, 28), np.uint8)
    with refusing() as address, kind.open(address, options=NEVER) as client:
        for call in (
            client.is_ready,
            client.models,
            lambda: client.classify(image, "lstm"),
            lambda: list(client.classify_stream([image], "lstm")),
            lambda: client.load_model("text"),
            lambda: client.unload_model("text"),
        ):
            message = message_of(UNAVAILABLE, call)
            assert f"no server answers at {kind.text(address)}; start a server with 'hangtag serve'" in message
            assert UNKNOWN not in message  # no server can have executed the call


def test_a_host_that_cannot_be_resolved_is_named(kind: Kind) -> None:
    address = f"{'a' * 64}.invalid:8001"  # DNS allows no name of this length, so no name server is asked
    with kind.open(address, options=NEVER) as client:
        message = message_of(UNAVAILABLE, client.models)
    assert f"the host of {kind.text(address)} is unknown; name the server with --server" in message


@grpc_kinds
def test_a_call_that_a_server_cancels_is_tried_again(kind: Kind) -> None:
    """While a server stops, gRPC cancels the calls that arrive."""
    calls = []

    def index(_requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        calls.append(context)
        if len(calls) == 1:
            context.abort(grpc.StatusCode.CANCELLED, "")
        yield pb.RepositoryIndexResponse(models=[{"name": "cnn"}])

    with grpc_server({f"{INFERENCE}RepositoryIndex": index}) as address, kind.open(address) as client:
        assert client.models() == ["cnn"]


@http_kinds
def test_a_call_that_a_busy_server_refuses_is_tried_again(kind: Kind) -> None:
    answers: list[Answer] = [(503, {}, b'{"error": "loading"}'), (503, {}, b""), (200, {}, b'[{"name": "gather"}]')]
    with web_server(lambda _: answers.pop(0)) as address, kind.open(address, options=SOON) as client:
        assert client.models() == ["gather"]


@pytest.mark.parametrize(("method", "model"), [("unload_model", "text"), ("load_model", "gather")])
def test_a_load_or_unload_whose_answer_is_lost_is_not_repeated(
    kind: Kind, models: Path, method: str, model: str
) -> None:
    with (
        running_server(models, model_control="explicit", load_model=("text",)) as server,
        link(kind.of(server)) as to,
        kind.open(to.address, options=QUICK) as client,
        Client(server.address) as control,
        ThreadPoolExecutor() as pool,
    ):
        assert client.models() == ["text"]
        to.lose_answers()
        call = pool.submit(getattr(client, method), model)
        until(lambda: control.is_ready(model) is (method == "load_model"))
        to.cut()
        assert UNKNOWN in message_of(UNAVAILABLE, call.result, TIMEOUT)
        assert to.connections == 1
        assert client.models() == control.models()  # calls that change nothing are retried


def a_proxy_that_answers_http2(status: bytes) -> AbstractContextManager[str]:
    # In HPACK, entry 8 of the static table is the name :status. A value of three bytes follows.
    return listener(answering_over_http2(HEADERS, b"\x08\x03" + status, flags=END_STREAM | END_HEADERS))


@pytest.mark.parametrize(
    ("http", "proxy", "code", "fact"),
    [
        (False, lambda: a_proxy_that_answers_http2(b"502"), UNAVAILABLE, "a proxy at {} answered HTTP 502"),
        (False, lambda: a_proxy_that_answers_http2(b"500"), grpc.StatusCode.UNKNOWN, "a proxy at {} answered HTTP 500"),
        (False, lambda: a_proxy_that_answers_http2(b"404"), UNIMPLEMENTED, "a proxy at {} answered HTTP 404"),
        (True, lambda: web_server(lambda _: (502, {}, b"bad gateway")), UNAVAILABLE, "502 bad gateway"),
    ],
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_refusal_of_a_proxy_says_nothing_of_the_server(
    http: bool,
    asynchronous: bool,
    proxy: Callable[[], AbstractContextManager[str]],
    code: grpc.StatusCode,
    fact: str,
) -> None:
    with proxy() as address, Kind(asynchronous, http).open(address, options=SOON) as client:
        control, other = message_of(code, client.unload_model, "text"), message_of(code, client.models)
    assert (fact.format(address) in control, fact.format(address) in other) == (True, True)
    assert (UNKNOWN in control, UNKNOWN in other) == (code is not UNIMPLEMENTED, False)


@http_kinds
def test_a_client_that_is_closed_closes_its_connection(kind: Kind) -> None:
    closed = threading.Event()

    def talk(connection: socket.socket, _pause: Pause) -> None:
        while request := connection.recv(1 << 16):
            if request.endswith(b"}"):  # the end of the body
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]")
        closed.set()

    with listener(talk) as address, kind.open(address, options=NEVER) as client:
        assert client.models() == []
        client.close()
        assert closed.wait(TIMEOUT)
