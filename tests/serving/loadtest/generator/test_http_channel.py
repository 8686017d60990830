"""Calls of the load generator over HTTP, on real connections."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme

from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.generator.channels.connect import connect
from hangtag.serving.loadtest.generator.channels.http_channel import HttpChannel
from hangtag.serving.loadtest.generator.channels.http_text import message_as_text
from hangtag.serving.loadtest.generator.messages import INFER
from hangtag.serving.server.config.server_config import ServerConfig
from tests.kit import onnx_models
from tests.kit.link import link
from tests.kit.live import LiveServer, index, request
from tests.kit.web_server import Answer, web_server
from tests.serving.loadtest.generator.ends import Ends

NONE = Credentials()
OK, CANCELLED, DEADLINE_EXCEEDED, NOT_FOUND, RESOURCE_EXHAUSTED, UNAVAILABLE, UNAUTHENTICATED = 0, 1, 4, 5, 8, 14, 16


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    onnx_models.publish(folder, "gather", onnx_models.gather())
    return folder


@pytest.fixture(scope="module")
def live(models: Path) -> Iterator[LiveServer]:
    with LiveServer(ServerConfig(models=models, port=0, http_port=0)) as running:
        yield running


def gather(url: str, model: str = "gather", deadline: float = 10.0) -> bytes:
    return message_as_text(url, INFER, request(model, index=index(1)).SerializeToString(), deadline)


def send(channel: Any, url: str, token: object, ends: Ends, timeout: float = 10.0, model: str = "gather") -> None:
    channel.send(INFER, gather(url, model, timeout), timeout, None, token, ends)


def test_every_call_ends_once_and_connections_are_used_again(live: LiveServer) -> None:
    with link(live.server.http_address) as to:
        url, ends = f"http://{to.address}", Ends()
        channel = HttpChannel(url, NONE)
        for round_ in range(3):
            for number in range(20):
                send(channel, url, (round_, number), ends)
            assert sorted(ends.next() for _ in range(20)) == [((round_, number), OK, "") for number in range(20)]
        channel.close()
        assert to.connections <= 20


def test_the_requests_of_other_threads_are_taken_too(live: LiveServer) -> None:
    url, ends = f"http://{live.server.http_address}", Ends()
    channel = HttpChannel(url, NONE)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: send(channel, url, number, ends), range(100)))
    assert sorted(ends.next()[0] for _ in range(100)) == list(range(100))
    channel.close()


def test_a_refusal_has_grpcs_code_and_the_servers_words(live: LiveServer) -> None:
    url, ends = f"http://{live.server.http_address}", Ends()
    channel = HttpChannel(url, NONE)
    send(channel, url, 1, ends, model="nobody")
    token, code, details = ends.next()
    assert (token, code) == (1, NOT_FOUND)
    assert "no model 'nobody' is served here" in details
    send(channel, url, 2, ends)  # the connection goes on
    assert ends.next() == (2, OK, "")
    channel.close()


def test_a_deadline_is_kept_and_calls_in_flight_end_when_closed(live: LiveServer) -> None:
    url, ends = f"http://{live.server.http_address}", Ends()
    with live.gate("gather") as gate:
        channel = HttpChannel(url, NONE)
        channel.send(INFER, gather(url), 0.1, None, "late", ends)
        assert ends.next()[:2] == ("late", DEADLINE_EXCEEDED)
        send(channel, url, "cancelled", ends)
        gate.wait_until_queued(2)
        channel.close()
        assert ends.next()[:2] == ("cancelled", CANCELLED)
        channel.close()  # a second time changes nothing


def test_a_server_that_accepts_and_is_silent_is_given_up_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url, ends = f"http://127.0.0.1:{silent.getsockname()[1]}", Ends()
        channel = HttpChannel(url, NONE)
        send(channel, url, 1, ends, timeout=0.1)
        assert ends.next()[:2] == (1, DEADLINE_EXCEEDED)
        channel.close()


def test_a_connection_that_breaks_fails_its_call_and_the_next_one_gets_another(live: LiveServer) -> None:
    with live.gate("gather") as gate, link(live.server.http_address) as to:
        url, ends = f"http://{to.address}", Ends()
        channel = HttpChannel(url, NONE)
        send(channel, url, "broken", ends)
        gate.wait_until_computing()
        to.cut()
        token, code, details = ends.next()
        assert (token, code) == ("broken", UNAVAILABLE)
        assert "the connection broke before the answer came" in details
        gate.open()
        send(channel, url, "next", ends)
        assert ends.next() == ("next", OK, "")
        channel.close()


def test_an_unreachable_server_shows_in_the_calls() -> None:
    url, ends = "http://127.0.0.1:9", Ends()
    channel = connect(url, NONE)
    send(channel, url, 1, ends)
    token, code, details = ends.next()
    assert (token, code) == (1, UNAVAILABLE)
    assert "no connection to 127.0.0.1:9" in details
    channel.close()


def test_a_port_that_does_not_speak_http_fails_its_calls(live: LiveServer) -> None:
    url, ends = f"http://{live.server.address}", Ends()
    channel = HttpChannel(url, NONE)
    send(channel, url, 1, ends)
    assert ends.next()[:2] == (1, UNAVAILABLE)
    channel.close()


@pytest.mark.parametrize(
    ("answer", "code", "details"),
    [
        ((200, {"connection": "close"}, b"{}"), OK, ""),
        ((429, {}, b'{"error": "queue is full"}'), RESOURCE_EXHAUSTED, "queue is full"),
        ((503, {"connection": "close"}, b"<html>"), UNAVAILABLE, "HTTP 503"),
        ((503, {}, b'{"error": ' + b"[" * 100_000), UNAVAILABLE, "HTTP 503"),
    ],
)
def test_answers_of_other_servers(answer: Answer, code: int, details: str) -> None:
    with web_server(lambda _: answer) as address:
        url, ends = f"http://{address}", Ends()
        channel = HttpChannel(url, NONE)
        for number in range(3):
            send(channel, url, number, ends)
            assert ends.next() == (number, code, details)
        channel.close()


def test_answers_in_chunks_are_read() -> None:
    chunks = b"2\r\n{}\r\n0\r\n\r\n"
    with web_server(lambda _: (200, {"transfer-encoding": "chunked"}, chunks)) as address:
        url, ends = f"http://{address}", Ends()
        channel = HttpChannel(url, NONE)
        for number in range(2):
            send(channel, url, number, ends)
            assert ends.next() == (number, OK, "")
        channel.close()


def test_tls_and_tokens_are_sent(models: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1")
    (tmp_path / "server.pem").write_bytes(issued.cert_chain_pems[0].bytes())
    issued.private_key_pem.write_to_path(str(tmp_path / "server.key"))
    (tmp_path / "token").write_text("a-token-of-sixteen-and-more\n")
    config = ServerConfig(
        models=models,
        port=0,
        http_port=0,
        tls_cert=tmp_path / "server.pem",
        tls_key=tmp_path / "server.key",
        token_file=tmp_path / "token",
    )
    with LiveServer(config) as guarded:
        url, ends = f"https://{guarded.server.http_address}", Ends()
        credentials = Credentials(tls_ca=tmp_path / "ca.pem", token_file=tmp_path / "token")
        channel = connect(url, credentials)
        channel.send(INFER, gather(url), 10.0, credentials.metadata(), "known", ends)
        assert ends.next() == ("known", OK, "")
        channel.send(INFER, gather(url), 10.0, None, "stranger", ends)
        assert ends.next()[:2] == ("stranger", UNAUTHENTICATED)
        channel.close()
        strangers = HttpChannel(url, NONE)  # trusts the system's authorities alone
        send(strangers, url, "refused", ends)
        assert ends.next()[:2] == ("refused", UNAVAILABLE)
        strangers.close()


def test_the_bytes_of_a_message_are_those_of_the_binary_extension() -> None:
    message = request("m", x=np.ones(2, np.float32)).SerializeToString()
    text = message_as_text("http://a.example:8000/b/", INFER, message, deadline=1)
    head, _, body = text.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /b/v2/models/m/infer HTTP/1.1\r\nhost: a.example:8000\r\n")
    assert f"content-length: {len(body)}".encode() in head
    assert body.endswith(np.ones(2, np.float32).tobytes())
    assert b'"timeout":1000000' in body
