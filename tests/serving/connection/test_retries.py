"""Calls that are tried again: the server goes and comes back, or the connection to it breaks."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from hangtag.serving.client import Client, ClientError, ConnectionOptions
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models
from tests.kit.kinds import Kind, every_kind
from tests.kit.link import link
from tests.kit.live import Array, LiveServer

QUICK = ConnectionOptions(retries=4, initial_backoff=0.2, max_backoff=2.0)
NEVER = ConnectionOptions(retries=0)
pytestmark = every_kind


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    onnx_models.publish(folder, "gather", onnx_models.gather())
    onnx_models.publish(folder, "text", onnx_models.text())
    return folder


@pytest.fixture(scope="module")
def live(models: Path) -> Iterator[LiveServer]:
    with LiveServer(ServerConfig(models=models, port=0, http_port=0)) as running:
        yield running


def gathered(client: Client, value: int = 1) -> list[float]:
    return [float(one) for one in client.infer("gather", {"index": np.array([value])})["value"]]


def test_a_refused_connection_is_tried_again(kind: Kind, live: LiveServer) -> None:
    with link(kind.of(live.server), refused=1) as to, kind.open(to.address, options=QUICK) as client:
        assert gathered(client) == [10]
        assert to.connections == 2


def test_without_retries_the_first_failure_is_the_last(kind: Kind, live: LiveServer) -> None:
    with (
        link(kind.of(live.server), refused=1) as to,
        kind.open(to.address, options=NEVER) as client,
        pytest.raises(ClientError) as caught,
    ):
        gathered(client)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_a_large_request_is_tried_again_too(kind: Kind, live: LiveServer) -> None:
    word = "x" * (2 << 20)
    with link(kind.of(live.server), refused=1) as to, kind.open(to.address, options=QUICK) as client:
        answer = client.infer("text", {"text": np.array([word], np.object_)})
    assert answer["shouted"][0] == f"{word}!".encode()


def test_a_call_outlives_the_connection_that_breaks_under_it(kind: Kind, live: LiveServer) -> None:
    with (
        live.gate("gather") as gate,
        link(kind.of(live.server)) as to,
        kind.open(to.address, options=QUICK) as client,
        ThreadPoolExecutor() as pool,
    ):
        answer = pool.submit(gathered, client)
        gate.wait_until_computing()
        to.cut()
        gate.wait_until_queued(2)  # once before the cut, once after it
        gate.open()
        assert answer.result(30) == [10]


def test_a_call_in_flight_when_its_client_is_closed(kind: Kind, live: LiveServer) -> None:
    """It is cancelled; a thread's call over HTTP gets its answer instead, since its socket cannot be closed."""
    with (
        live.gate("gather") as gate,
        kind.open(kind.of(live.server), timeout=20) as client,
        ThreadPoolExecutor() as pool,
    ):
        answer = pool.submit(gathered, client)
        gate.wait_until_computing()
        client.close()
        if kind.http and not kind.asynchronous:
            gate.open()
            assert answer.result(10) == [10]
        else:
            with pytest.raises(ClientError) as caught:
                answer.result(10)
            assert caught.value.code is grpc.StatusCode.CANCELLED
        with pytest.raises(ClientError, match="this client is closed"):
            gathered(client)


def test_an_error_of_the_callers_is_not_tried_again(kind: Kind, live: LiveServer) -> None:
    before = live.statistics("gather").inference_stats.fail.count
    with kind.open(kind.of(live.server), options=QUICK) as client, pytest.raises(ClientError) as caught:
        client.infer("gather", {"index": np.array([99])})
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert live.statistics("gather").inference_stats.fail.count == before + 1


def test_the_deadline_covers_all_attempts(kind: Kind, live: LiveServer) -> None:
    slow = ConnectionOptions(retries=4, initial_backoff=60, max_backoff=60)
    with (
        link(kind.of(live.server), refused=9) as to,
        kind.open(to.address, timeout=0.3, options=slow) as client,
        pytest.raises(ClientError, match=r"no answer from .* within 0\.3 s|the connection to .* broke"),
    ):
        gathered(client)


def test_a_client_finds_its_server_again_after_a_restart(kind: Kind, models: Path) -> None:
    server = Server(ServerConfig(models=models, port=0, http_port=0))
    with server, kind.open(kind.of(server), options=ConnectionOptions(retries=1)) as client:
        assert gathered(client, 1) == [10]
        address = kind.of(server)
        server.stop(grace=0)
        with pytest.raises(ClientError) as caught:
            gathered(client, 2)
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        assert f"no server answers at {kind.text(address)}" in str(caught.value)
        with Server(ServerConfig(models=models, **kind.ports(address))):
            client.wait_until_ready(30)
            assert gathered(client, 3) == [30]


def test_a_stream_ends_with_the_server(kind: Kind, models: Path) -> None:
    answered = threading.Event()

    def requests() -> Iterator[dict[str, Array]]:
        yield {"index": np.array([1])}
        assert answered.wait(30)
        server.stop(grace=0)
        yield {"index": np.array([2])}

    server = Server(ServerConfig(models=models, port=0, http_port=0))
    with server, kind.open(kind.of(server), options=NEVER) as client:
        outcomes = client.infer_stream("gather", requests())
        assert isinstance(next(outcomes), dict)
        answered.set()
        with pytest.raises(ClientError) as caught:
            list(outcomes)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
