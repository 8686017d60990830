"""Waiting for a server that stops, or to which the connection breaks, while a client watches it."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from hangtag.serving.client import Client, ClientError
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.transport.grpc.health_service import HealthService
from tests.kit.kinds import Kind
from tests.kit.link import link

TIMEOUT = 30.0


@pytest.fixture
def wait_until_watched(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Returns once a server has got a Watch. Over HTTP, where a client asks again and again, it returns at once."""
    watched, watch = threading.Event(), HealthService.Watch

    async def watch_and_tell(self: HealthService, request: Any, context: Any) -> None:
        watched.set()
        await watch(self, request, context)

    def wait() -> None:
        assert kind.http or watched.wait(TIMEOUT)

    monkeypatch.setattr(HealthService, "Watch", watch_and_tell)
    return wait


def only_text(models: Path) -> ServerConfig:
    """A server that serves ``text``, and loads other models by call."""
    return ServerConfig(models=models, model_control="explicit", load_model=("text",), port=0, http_port=0)


def test_another_server_may_take_the_place_of_the_one_that_stops(
    kind: Kind, models: Path, wait_until_watched: Callable[[], None]
) -> None:
    with Server(only_text(models)) as first, kind.open(kind.of(first)) as client, ThreadPoolExecutor() as pool:
        address = kind.of(first)
        waiting = pool.submit(client.wait_until_ready, TIMEOUT, "gather")
        wait_until_watched()
        first.stop()
        with Server(ServerConfig(models=models, **kind.ports(address))):
            waiting.result(TIMEOUT)


def test_the_connection_may_break(kind: Kind, models: Path, wait_until_watched: Callable[[], None]) -> None:
    with (
        Server(only_text(models)) as server,
        link(kind.of(server)) as to,
        kind.open(to.address) as client,
        Client(server.address) as control,
        ThreadPoolExecutor() as pool,
    ):
        waiting = pool.submit(client.wait_until_ready, TIMEOUT, "gather")
        wait_until_watched()
        to.cut()
        control.load_model("gather")
        waiting.result(TIMEOUT)


def test_a_server_that_stops_and_stays_away_is_waited_for_to_the_end(
    kind: Kind, models: Path, wait_until_watched: Callable[[], None]
) -> None:
    with Server(only_text(models)) as server, kind.open(kind.of(server)) as client, ThreadPoolExecutor() as pool:
        began = time.monotonic()
        waiting = pool.submit(client.wait_until_ready, 1.5, "gather")
        wait_until_watched()
        server.stop()
        with pytest.raises(ClientError, match=r"within 1\.5 s") as caught:
            waiting.result(TIMEOUT)
    assert time.monotonic() - began >= 1.5
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_client_that_is_closed_waits_no_longer(
    kind: Kind, models: Path, wait_until_watched: Callable[[], None]
) -> None:
    with Server(only_text(models)) as server, kind.open(kind.of(server)) as client, ThreadPoolExecutor() as pool:
        assert client.is_ready()
        waiting = pool.submit(client.wait_until_ready, TIMEOUT, "gather")
        wait_until_watched()
        client.close()
        with pytest.raises(ClientError, match="this client is closed") as caught:
            waiting.result(TIMEOUT / 2)
    assert caught.value.code is grpc.StatusCode.CANCELLED
