"""What no server can show: grpcio's other internals, calls whose end is never reported, when exactly a call left.

And the server that computes nothing: real clients take its answers, bytes may arrive in any pieces.
"""

import http.client
import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any
from unittest.mock import Mock

import grpc
import pytest

from hangtag.serving.client import Credentials
from hangtag.serving.loadtest.generator.channels.connect import connect
from hangtag.serving.loadtest.generator.executors import Assignment, create
from hangtag.serving.loadtest.generator.messages import Block, CallSettings, RequestPool, SharedCounts
from hangtag.serving.loadtest.plan.limits import Limits
from hangtag.serving.loadtest.plan.load import ClosedLoop, Load, OpenLoop
from hangtag.serving.loadtest.sut.null_server import PREFACE, NullConnection, NullHttpConnection, frame, null_server
from tests.kit.fake_server import FakeServer, running_over_http
from tests.kit.waiting import until

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("opened", "called"),
    [
        (AttributeError("'Channel' object has no attribute '_channel'"), None),
        (None, TypeError("integrated_call() takes 3 positional arguments")),
        (None, None),
    ],
    ids=["other names", "other arguments", "no events"],
)
def test_other_internals_of_grpcio_are_answered_by_its_public_interface(
    server: FakeServer, opened: Exception | None, called: Exception | None
) -> None:
    private = Mock(side_effect=opened)
    private.return_value.send.side_effect = called
    channel = connect(server.address, Credentials(), private=private, timeout=0.2)
    assert private.called
    assert channel.name == "grpcio's futures"
    channel.close()


class LosesOneEnd:
    """Answers each call at once on another thread, but never the fourth."""

    name = "loses one end"

    def __init__(self) -> None:
        self._sent = 0
        self._thread = ThreadPoolExecutor(1)

    def send(self, method: str, request: bytes, timeout: float, metadata: Any, token: Any, on_end: Any) -> None:
        self._sent += 1
        if self._sent != 4:
            now = time.perf_counter()
            self._thread.submit(on_end, token, now, now, 0, "")

    def close(self) -> None:
        self._thread.shutdown()


@pytest.mark.parametrize("load", [ClosedLoop(2), OpenLoop(200.0)], ids=["closed", "open"])
def test_a_call_whose_end_grpc_never_reports_is_a_failure_and_the_block_ends(load: Load) -> None:
    """At times gRPC reports no end of a call whose connection the server has cut."""
    channel = LosesOneEnd()
    block = Block("fast", load, Limits(0.1, 20, 10.0, 100_000), warm_up=0.0, seed=0, round=0)
    settings = CallSettings(deadline=0.2, lost_after=0.1)
    counts = SharedCounts(multiprocessing.get_context("spawn"), 1)
    pool = RequestPool("", "", (b"",))
    executor = create(Assignment(block, [channel], pool, settings, counts, 0, 1))
    pacer = threading.Thread(target=executor.pace)
    pacer.start()

    def drained() -> bool:
        executor.check_limits()
        executor.give_up_lost_calls()
        return executor.drained.is_set()

    until(drained)
    pacer.join()
    channel.close()
    result = executor.result()
    assert result.statuses["UNKNOWN"] == 1
    assert "did not report" in result.details["UNKNOWN"]
    assert result.statuses["OK"] >= 19
    assert result.queries == result.statuses.total()


def test_a_call_over_http_leaves_when_it_is_written() -> None:
    """While the thread that writes stands still, a call waits for it, which is the generator's delay."""
    live = b"GET /v2/health/live HTTP/1.1\r\nhost: here\r\n\r\n"
    ends: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
    standing, go_on = threading.Event(), threading.Event()

    def stand_still(*_: object) -> None:  # on the thread that writes, which calls it
        standing.set()
        go_on.wait(20)

    with running_over_http(FakeServer()) as fake:
        channel = connect(fake.address, Credentials())
        channel.send("", live, 10.0, None, "first", stand_still)
        assert standing.wait(20)
        channel.send("", live, 10.0, None, "second", lambda *end: ends.put(end))
        went_on = time.perf_counter()
        go_on.set()
        token, sent, end, code, _ = ends.get(timeout=20)
        assert (token, code) == ("second", 0)
        assert went_on <= sent <= end
        channel.close()
        channel.close()  # a second time changes nothing


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
