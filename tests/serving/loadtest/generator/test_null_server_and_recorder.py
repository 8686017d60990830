"""The server that computes nothing: real clients take its answers, bytes may arrive in any pieces. And the recorder."""

import http.client

import grpc
import pytest

from hangtag.serving.loadtest.generator.executors.recorder import Recorder
from hangtag.serving.loadtest.plan.load import OpenLoop
from hangtag.serving.loadtest.sut.null_server import (
    PREFACE,
    NullConnection,
    NullHttpConnection,
    frame,
    null_server,
)
from tests.serving.loadtest.command import LIMITS

pytestmark = pytest.mark.quick

LARGE = bytes(1 << 20)  # larger than a frame, and four of them than the window


def test_requests_of_any_size_are_answered_over_both_protocols() -> None:
    with null_server() as address, grpc.insecure_channel(address) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/a.Service/Method")
        for _ in range(4):
            assert call(LARGE, timeout=5) == b""
    with null_server("HTTP") as address:
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=5)
        for body in (b"x" * 830, b"", LARGE):
            connection.request("POST", "/v2/models/m/infer", body)
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b"{}")
        connection.close()


GRPC = bytes(PREFACE) + frame(0x4, 0, 0) + frame(0x1, 0x4, 7, b"...") + frame(0x0, 0x1, 7, b"body")
HTTP = b"POST /a HTTP/1.1\r\nContent-Length: 4\r\n\r\nbodyGET /b HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize(("kind", "request_"), [(NullConnection, GRPC), (NullHttpConnection, HTTP)])
def test_bytes_may_arrive_in_any_pieces(kind: type[NullConnection] | type[NullHttpConnection], request_: bytes) -> None:
    whole, connection = kind().receive(request_), kind()
    assert b"".join(connection.receive(request_[place : place + 1]) for place in range(len(request_))) == whole
    if kind is NullHttpConnection:
        assert whole.count(b"HTTP/1.1 200 OK") == 2
    else:
        assert whole.startswith(frame(0x4, 0x1, 0))  # The settings are acknowledged.
        assert whole.count((7).to_bytes(4, "big")) == 3  # Headers, message and trailers of stream 7.


def test_answers_wait_for_the_clients_window_and_pings_are_acknowledged() -> None:
    """The window is 65,535 bytes at first; the message of an answer takes 5."""
    ends = b"".join(frame(0x0, 0x1, 2 * number + 1) for number in range(13_109))
    connection = NullConnection()
    alone = NullConnection().receive(bytes(PREFACE) + frame(0x0, 0x1, 1))
    assert len(connection.receive(bytes(PREFACE) + ends)) == 13_107 * len(alone)
    assert connection.receive(frame(0x8, 0, 1, (100).to_bytes(4, "big"))) == b""  # a window for one stream only
    assert len(connection.receive(frame(0x8, 0, 0, (5).to_bytes(4, "big")))) == len(alone)
    assert len(connection.receive(frame(0x8, 0, 0, (100).to_bytes(4, "big")))) == len(alone)
    assert connection.receive(frame(0x6, 0, 0, b"12345678")) == frame(0x6, 0x1, 0, b"12345678")
    assert connection.receive(frame(0x6, 0x1, 0, b"12345678")) == b""


def test_latency_counts_from_the_planned_time_and_the_warm_up_only_as_throughput() -> None:
    recorder = Recorder(1.0, LIMITS)
    recorder.record(0.5, 0.5, 0.9, "OK")
    recorder.record(0.9, 0.9, 1.1, "OK")
    recorder.fold()
    recorder.record(1.0, 1.0, 1.2, "OK")
    recorder.fold()
    recorder.record(1.9, 1.92, 2.3, "OK")  # Sent late, and answered after the window.
    recorder.record(1.9, 1.95, 2.8, "UNAVAILABLE")
    result = recorder.result("cnn", OpenLoop(100.0), 2.0)
    assert result.warm_up_queries == 2
    assert result.statuses == {"OK": 2, "UNAVAILABLE": 1}
    assert result.throughput == pytest.approx(2.0)
    for durations, shortest, longest in ((result.latency, 0.2, 0.4), (result.service, 0.2, 0.38)):
        assert len(durations) == 2  # failed calls have none
        assert durations.percentile(0) == pytest.approx(shortest, rel=0.002)
        assert durations.maximum == pytest.approx(longest, rel=0.002)
    assert len(result.lateness) == 3
    assert result.lateness.maximum == pytest.approx(0.05, rel=0.002)
    assert result.delayed == 2
