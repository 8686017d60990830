"""The server that computes nothing: real clients take its answers, and bytes may arrive in any pieces."""

import http.client
import socket
import threading
from collections.abc import Iterator

import grpc
import pytest

from hangtag.serving.loadtest.sut.null_server import (
    PREFACE,
    NullConnection,
    NullHttpConnection,
    frame,
    null_server,
    serve_on,
)

INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture
def address() -> Iterator[str]:
    """A null server on a thread of this process."""
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve_on, args=(listener,), daemon=True)
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    thread.join(5.0)


def test_requests_larger_than_a_frame_and_than_the_window_are_accepted(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(INFER)
        for _ in range(4):
            assert call(bytes(1 << 20), timeout=5) == b""


def call_once(channel: grpc.Channel) -> bytes:
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(INFER)
    return call(b"", timeout=5)


def test_bytes_may_arrive_in_any_pieces() -> None:
    request = bytes(PREFACE) + frame(0x4, 0, 0) + frame(0x1, 0x4, 7, b"...") + frame(0x0, 0x1, 7, b"body")
    whole = NullConnection().receive(request)
    connection = NullConnection()
    pieces = b"".join(connection.receive(request[place : place + 1]) for place in range(len(request)))
    assert pieces == whole
    assert whole.startswith(frame(0x4, 0x1, 0))  # The settings are acknowledged.
    assert whole.count((7).to_bytes(4, "big")) == 3  # Headers, message and trailers of stream 7.


def test_pings_are_acknowledged() -> None:
    connection = NullConnection()
    assert connection.receive(bytes(PREFACE) + frame(0x6, 0, 0, b"12345678")) == frame(0x6, 0x1, 0, b"12345678")
    assert connection.receive(frame(0x6, 0x1, 0, b"12345678")) == b""


def test_answers_wait_for_the_clients_window() -> None:
    """Which is 65,535 bytes at first; the message of an answer takes 5."""
    ends = b"".join(frame(0x0, 0x1, 2 * number + 1) for number in range(13_109))
    connection = NullConnection()
    alone = NullConnection().receive(bytes(PREFACE) + frame(0x0, 0x1, 1))
    assert len(connection.receive(bytes(PREFACE) + ends)) == 13_107 * len(alone)
    assert connection.receive(frame(0x8, 0, 1, (100).to_bytes(4, "big"))) == b""  # a window for one stream only
    assert len(connection.receive(frame(0x8, 0, 0, (5).to_bytes(4, "big")))) == len(alone)
    assert len(connection.receive(frame(0x8, 0, 0, (100).to_bytes(4, "big")))) == len(alone)


def test_an_http_client_accepts_its_answers() -> None:
    with null_server("HTTP") as address:
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=5)
        for body in (b"x" * 830, b"", bytes(1 << 20)):
            connection.request("POST", "/v2/models/m/infer", body)
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b"{}")
        connection.close()


def test_requests_of_http_may_arrive_in_any_pieces() -> None:
    request = b"POST /a HTTP/1.1\r\nContent-Length: 4\r\n\r\nbodyGET /b HTTP/1.1\r\nhost: x\r\n\r\n"
    whole = NullHttpConnection().receive(request)
    connection = NullHttpConnection()
    pieces = b"".join(connection.receive(request[place : place + 1]) for place in range(len(request)))
    assert pieces == whole
    assert whole.count(b"HTTP/1.1 200 OK") == 2
