"""The server that computes nothing: real clients take its answers, and bytes may arrive in any pieces."""

import http.client
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

import grpc
import numpy as np
import pytest
from scipy.stats import expon, lognorm

from hangtag.serving.loadtest.generator.block_result import OK, BlockResult
from hangtag.serving.loadtest.generator.executors.recorder import Recorder
from hangtag.serving.loadtest.plan.limits import Limits
from hangtag.serving.loadtest.plan.load import OpenLoop
from hangtag.serving.loadtest.plan.schedule import planned_send_times, random_generator
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


LOAD = OpenLoop(100.0)
LIMITS = Limits(min_duration=1.0, min_query_count=1, max_duration=10.0, max_query_count=1000)


def recorder(window_start: float) -> Recorder:
    return Recorder(window_start, LIMITS)


def test_the_warm_up_is_discarded_but_its_answers_within_the_window_count_as_throughput() -> None:
    new = recorder(1.0)
    new.record(0.5, 0.5, 0.9, OK)
    new.record(0.9, 0.9, 1.1, OK)
    new.record(1.0, 1.0, 1.2, OK)
    new.record(1.9, 1.9, 2.1, OK)  # Sent within the window, answered after it.
    result = new.result("cnn", LOAD, 2.0)
    assert result.warm_up_queries == 2
    assert result.queries == len(result.latency) == 2
    assert result.throughput == pytest.approx(2.0)


def test_the_processes_parts_of_a_block_are_combined() -> None:
    first, second = recorder(0.0), recorder(0.0)
    for number in range(10):
        first.record(number / 10, number / 10, number / 10 + 0.05, OK)
    second.record(0.1, 0.1, 0.15, OK)
    parts = [
        replace(first.result("cnn", LOAD, 1.0), generator_cpu=0.3, generator_busy=0.9, cpu_share=0.1),
        replace(second.result("cnn", LOAD, 1.0), generator_cpu=0.7, generator_busy=0.8, cpu_share=0.3),
    ]
    joined = BlockResult.from_processes(parts, LIMITS)
    assert joined.window == 1.0
    assert joined.queries == 11
    assert joined.throughput == pytest.approx(11.0)
    assert (joined.generator_cpu, joined.generator_busy) == (0.7, 0.9)
    assert joined.cpu_share == 0.4
    assert BlockResult.from_blocks(parts).cpu_share == 0.2
    assert joined.finished
    assert sum(len(one.latency) for one in joined.timeline) == 11
    assert [one.start for one in joined.timeline] == sorted({one.start for one in joined.timeline})
    assert not BlockResult.from_processes(parts, Limits(1.0, 12, 10.0, 1000)).finished
    assert not BlockResult.from_processes(parts, Limits(1.1, 1, 10.0, 1000)).finished


RATE, SECONDS, WARM_UP = 200.0, 100.0, 1.0
SIMULATED = OpenLoop(RATE)
LONG = Limits(SECONDS, 1000, 1000.0, 10**6)
STALL_AT, STALL = 40.0, 1.0


def measured(planned: np.ndarray, sent: np.ndarray, ended: np.ndarray) -> BlockResult:
    recorder = Recorder(WARM_UP, LONG)
    for number, times in enumerate(zip(planned.tolist(), sent.tolist(), ended.tolist(), strict=True)):
        recorder.record(*times, OK)
        if number % 777 == 0:
            recorder.fold()
    return recorder.result("cnn", SIMULATED, float(planned[-1]))


@pytest.fixture(scope="module")
def planned() -> np.ndarray:
    return planned_send_times(SIMULATED, LONG, WARM_UP, random_generator(1, "schedule"))


@pytest.mark.parametrize("distribution", [lognorm(0.5, scale=0.004), expon(scale=0.003)], ids=["lognormal", "expon"])
@pytest.mark.parametrize("q", [50.0, 90.0, 99.0])
def test_the_percentiles_are_those_of_the_distribution(planned: np.ndarray, distribution: object, q: float) -> None:
    """A server with unlimited parallelism and independent query times."""
    latencies = distribution.rvs(len(planned), random_state=7)  # type: ignore[attr-defined]
    result = measured(planned, planned, planned + latencies)
    true = distribution.ppf(q / 100)  # type: ignore[attr-defined]
    density = distribution.pdf(true)  # type: ignore[attr-defined]
    # Four standard errors of a sample quantile: sqrt(p (1 - p) / n) / density.
    error = 4 * np.sqrt(q / 100 * (1 - q / 100) / result.queries) / density
    assert result.latency.percentile(q) == pytest.approx(true, abs=error + 0.001 * true)
    assert result.throughput == pytest.approx(RATE, rel=0.03)
    assert result.warm_up_queries == np.count_nonzero(planned < WARM_UP)


def test_a_stall_shows_in_the_latency_from_planned_times_and_hides_in_that_from_actual_sends(
    planned: np.ndarray,
) -> None:
    """Coordinated omission: a client that waits for each answer before it sends the next, on a server that stands still
    for a second once. 2 ms a query; of 100 s, the stall and what had to wait behind it are over one percent."""
    free, sent, ended = 0.0, [], []
    for due in planned.tolist():
        left = max(due, free)
        free = left + 0.002
        if left < STALL_AT <= free:
            free += STALL
        sent.append(left)
        ended.append(free)
    result = measured(planned, np.array(sent), np.array(ended))
    assert result.service.percentile(99) == pytest.approx(0.002, rel=0.01)
    assert result.latency.percentile(99) > 0.25 * STALL
    # Both contain the one query that met the stall.
    assert result.service.maximum == pytest.approx(STALL + 0.002, rel=0.01)
    # The client sent late, which is counted too.
    assert result.delayed > RATE * STALL
    assert result.lateness.percentile(99) > 0.25 * STALL
