"""A call over HTTP ends at its deadline, however slowly the other side answers, takes the request, or connects."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeAlias

import grpc
import numpy as np
import pytest

from hangtag.serving.client import ClientError
from hangtag.serving.server.process.server import Server
from tests.kit.kinds import KINDS, Kind
from tests.kit.link import link
from tests.kit.web_server import Answer, web_server

STEPS, PAUSE = 50, 0.1
"""A slow peer takes five seconds; the calls have much less."""
IN_TIME = STEPS * PAUSE / 2
Pause: TypeAlias = Callable[[], bool]
pytestmark = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.http], ids=str)


@contextmanager
def peer(talk: Callable[[socket.socket, Pause], None]) -> Iterator[str]:
    """HOST:PORT of a peer that talks so on each connection; a pause returns True at the end of the test."""
    ended = threading.Event()

    def accept() -> None:
        with suppress(OSError):  # the listener, or the client's end, is closed
            while True:
                connection, _ = listener.accept()
                with connection:
                    talk(connection, lambda: ended.wait(PAUSE))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def trickle(connection: socket.socket, pause: Pause, beginning: bytes) -> None:
    connection.recv(1 << 16)
    connection.sendall(beginning)
    for _ in range(STEPS):
        if pause():
            return
        connection.sendall(b"x")


def trickle_headers(connection: socket.socket, pause: Pause) -> None:
    trickle(connection, pause, b"HTTP/1.1 200 OK\r\n")


def trickle_a_body(connection: socket.socket, pause: Pause) -> None:
    trickle(connection, pause, b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")


def take_slowly(connection: socket.socket, pause: Pause) -> None:
    for _ in range(STEPS):
        if pause():
            return
        taken = 0
        while taken < 1 << 19:
            part = connection.recv(1 << 19)
            if not part:
                return
            taken += len(part)


def require_late(call: Callable[[], object], seconds: float) -> None:
    began = time.monotonic()
    with pytest.raises(ClientError, match=f"no answer from .* within {seconds:g} s") as caught:
        call()
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < IN_TIME


@pytest.mark.parametrize("talk", [trickle_headers, trickle_a_body])
def test_an_answer_that_trickles(kind: Kind, talk: Callable[[socket.socket, Pause], None]) -> None:
    with peer(talk) as address, kind.open(address, timeout=0.3) as client:
        require_late(client.models, 0.3)


def test_a_large_request_that_is_taken_slowly(kind: Kind) -> None:
    large = {"image": np.zeros(64 << 20, np.uint8)}
    with peer(take_slowly) as address, kind.open(address, timeout=0.8) as client:
        require_late(lambda: client.infer("any", large), 0.8)


@contextmanager
def silent(host: str, port: int) -> Iterator[int]:
    """A port, 0 for any, that answers no attempt to connect, because its queue of connections is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((host, port))
        listener.listen(0)
        with suppress(TimeoutError):
            for _ in range(8):
                stack.enter_context(socket.create_connection(listener.getsockname(), timeout=0.2))
        yield listener.getsockname()[1]


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gives the host ``several.example`` addresses."""
    looked_up = socket.getaddrinfo

    def to(*addresses: str) -> None:
        def getaddrinfo(host: Any, port: Any, *arguments: Any, **settings: Any) -> list[Any]:
            names = addresses if host in ("several.example", b"several.example") else (host,)
            return [found for name in names for found in looked_up(name, port, *arguments, **settings)]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return to


def test_a_host_with_several_addresses_that_do_not_answer(kind: Kind, resolve: Callable[..., None]) -> None:
    with silent("127.0.0.1", 0) as port, silent("127.0.0.2", port), silent("127.0.0.3", port):
        resolve("127.0.0.1", "127.0.0.2", "127.0.0.3")
        with kind.open(f"several.example:{port}", timeout=1) as client:
            require_late(client.models, 1)


def test_an_address_that_does_not_answer_leaves_time_for_the_next(kind: Kind, resolve: Callable[..., None]) -> None:
    with web_server(lambda _: (200, {}, b"[]")) as address:
        port = address.rpartition(":")[2]
        with silent("127.0.0.2", int(port)):
            resolve("127.0.0.2", "127.0.0.1")
            with kind.open(f"several.example:{port}", timeout=3) as client:
                began = time.monotonic()
                assert client.models() == []
                assert time.monotonic() - began < 3


def test_calls_one_after_another_share_a_connection(kind: Kind, server: Server) -> None:
    with link(kind.of(server)) as to, kind.open(to.address) as client:
        for _ in range(3):
            assert client.is_ready("gather")
        assert to.connections == 1


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """A server that HTTP_PROXY names, and the paths for which it was asked."""
    asked: list[str] = []

    def answer(path: str) -> Answer:
        asked.append(path)
        return 200, {}, b"[]"

    for name in ("http_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with web_server(answer) as address:
        monkeypatch.setenv("HTTP_PROXY", f"http://{address}")
        yield address, asked


def models_at(kind: Kind, address: str) -> list[str]:
    with kind.open(address) as client:
        return client.models()


def test_the_proxy_that_the_environment_names_is_used(kind: Kind, paths: tuple[str, list[str]]) -> None:
    assert models_at(kind, "models.example:8000") == []
    assert paths[1] == ["http://models.example:8000/v2/repository/index"]


@pytest.mark.parametrize("exempt", ["127.0.0.1", "example.com, 127.0.0.0/8", "*", "localhost,*", "http://127.0.0.1"])
def test_a_host_that_needs_no_proxy_is_called_directly(
    kind: Kind, paths: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, exempt: str
) -> None:
    monkeypatch.setenv("NO_PROXY", exempt)
    assert models_at(kind, paths[0]) == []
    assert paths[1] == ["/v2/repository/index"]


# No name of .invalid has an address, and nothing listens at port 1: the calls that no proxy is asked for fail.
@pytest.mark.parametrize(
    ("address", "exempt"),
    [
        ("models.invalid:8000", "models.invalid"),
        ("models.invalid:8000", ".invalid"),
        ("models.invalid:8000", "localhost, *.invalid"),
        ("models.invalid:8000", "models.invalid:8000"),
        ("models.invalid", "models.invalid"),
        ("[::1]:1", "::1"),
        ("[::1]:1", "[::1]"),
        ("[::1]:1", "[::1]:1"),
        ("[::1]:1", "::/64"),
    ],
)
def test_no_proxy_is_asked_for_a_host_that_needs_none(
    kind: Kind, paths: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, address: str, exempt: str
) -> None:
    monkeypatch.setenv("NO_PROXY", exempt)
    with pytest.raises(ClientError, match=r"the host of .* is unknown|no server answers"):
        models_at(kind, address)
    assert paths[1] == []


@pytest.mark.parametrize("exempt", ["dels.invalid", "models.invalid:9000", "https://models.invalid", "[::1]", "::/0"])
def test_a_host_that_no_proxy_does_not_have_is_called_through_the_proxy(
    kind: Kind, paths: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, exempt: str
) -> None:
    monkeypatch.setenv("NO_PROXY", exempt)
    assert models_at(kind, "models.invalid:8000") == []
    assert paths[1] == ["http://models.invalid:8000/v2/repository/index"]
