"""Closed and open loops, stalls, failures and stops: queries are sent and counted, over every kind of connection."""

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.kit.fake_server import FakeServer, running, running_over_http
from tests.kit.waiting import pass_time
from tests.serving.loadtest.command import measure

STALL = 0.5  # seconds
Measure = Callable[..., Any]


@pytest.fixture(params=["queue", "HTTP"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(way: str) -> Iterator[FakeServer]:
    with (running_over_http if way == "HTTP" else running)(FakeServer()) as servicer:
        yield servicer


@pytest.fixture
def measured(server: FakeServer, way: str, tmp_path: Path) -> Measure:
    """Runs `hangtag loadtest` against the server, and checks that it reports this kind of connection."""

    def run(*arguments: object) -> Any:
        result = measure(tmp_path, *arguments, "--server", server.address)
        assert way in result.document["environment"]["generator"]
        return result

    return run


def test_a_closed_loop_keeps_its_queries_in_flight_and_an_open_loop_sends_its_schedule(
    server: FakeServer, measured: Measure
) -> None:
    in_flight = most = 0
    lock, together = threading.Lock(), threading.Barrier(4, timeout=10)

    def behaviour(number: int, context: Any) -> None:
        nonlocal in_flight, most
        with lock:
            in_flight += 1
            most = max(most, in_flight)
        if 1 <= number <= 4:
            together.wait()  # the barrier breaks unless four calls are in flight
        with lock:
            in_flight -= 1

    server.behaviour = behaviour
    limits = ("--blocks", 1, "--min-query-count", 50, "--min-duration", "300ms", "--warm-up", "100ms")
    # All gRPC calls of a process share one connection.
    loads = ("--concurrency", 4, "--rate", 200, "--arrivals", "constant", "--channels", 2)
    result = measured("fast", *loads, *limits)
    closed, opened = result.run("fast", "closed"), result.run("fast", "open")
    assert most >= 4
    assert closed["total"]["finished"], closed["problems"]
    assert closed["total"]["queries"] == closed["total"]["statuses"]["OK"] >= 50
    assert closed["total"]["warm_up_queries"] > 0
    total = opened["total"]
    assert 60 <= total["queries"] <= 62
    assert 19 <= total["warm_up_queries"] <= 21
    assert total["duration"] == pytest.approx(0.3, abs=0.05)
    assert total["finished"]
    calls = sum(run["total"]["queries"] + run["total"]["warm_up_queries"] for run in result.runs)
    assert calls == len(server.requests) - 1  # one probe call precedes the queries
    assert result.text.count("queries of the warm-up were sent before, and discarded") == 1


def test_failures_are_counted_by_status_with_their_first_message(server: FakeServer, measured: Measure) -> None:
    """Some calls are refused and some end at their deadline, so the run is INVALID."""
    numbers, ended = Counter[str](), threading.Event()

    def behaviour(number: int, context: Any) -> None:
        model = server.requests[number].model_name
        pass_time(0.005)  # longer than the generator's own work takes
        numbers[model] += 1
        if model == "fast" and numbers[model] % 5 == 2:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"queue is full \u2014 {numbers[model]}")
        if model == "slow" and numbers[model] == 3:
            ended.wait(10)

    server.behaviour = behaviour
    limits = ("--min-duration", "1ms", "--min-query-count", 20, "--max-query-count", 20, "--blocks", 1, "--warm-up", 0)
    result = measured("fast", "slow", "--concurrency", 1, *limits, "--deadline", "300ms")
    ended.set()
    fast, slow = result.runs
    assert fast["total"]["statuses"] == {"OK": 16, "RESOURCE_EXHAUSTED": 4}
    assert fast["total"]["latency"]["count"] == 16
    assert fast["total"]["lateness"]["count"] == 20
    assert fast["error_messages"] == {"RESOURCE_EXHAUSTED": "queue is full \u2014 2"}
    assert fast["problems"] == ["4 of 20 calls failed (4 RESOURCE_EXHAUSTED)"]
    assert slow["total"]["statuses"] == {"OK": 19, "DEADLINE_EXCEEDED": 1}
    assert "INVALID fast, 1 in flight: 4 of 20 calls failed (4 RESOURCE_EXHAUSTED)" in result.text
    assert "VALID every run" not in result.text


def test_a_stall_of_the_server_shows_in_the_open_loop_and_hides_in_the_closed_one(
    server: FakeServer, measured: Measure
) -> None:
    """Coordinated omission: a stall delays one of 200 queries in a closed loop, but many queries in an open loop."""
    stalled, at = threading.Lock(), (101, 301)

    def behaviour(number: int, context: Any) -> None:
        with stalled:  # while one call holds the lock, all others wait, as during a garbage collection
            if number in at:
                pass_time(STALL)

    server.behaviour = behaviour
    limits = ("--min-duration", "1ms", "--min-query-count", 200, "--max-query-count", 200, "--blocks", 1)
    loads = ("--concurrency", 1, "--rate", 300, "--arrivals", "constant", "--warm-up", 0)
    result = measured("fast", *loads, *limits)
    closed, opened = (result.run("fast", kind)["total"]["latency"] for kind in ("closed", "open"))
    assert closed["max"] > 0.9 * STALL
    assert closed["p99"] < STALL / 3
    assert opened["p99"] > 0.8 * STALL
    assert opened["p90"] > STALL / 2


def test_a_stall_of_the_generator_counts_from_the_planned_time_and_makes_the_run_invalid(
    server: FakeServer, measured: Measure
) -> None:
    def behaviour(number: int, context: Any) -> None:
        if number == 50:
            (generator,) = multiprocessing.active_children()
            assert generator.pid
            os.kill(generator.pid, signal.SIGSTOP)
            threading.Timer(STALL, os.kill, (generator.pid, signal.SIGCONT)).start()

    server.behaviour = behaviour
    load = ("--rate", 100, "--arrivals", "constant", "--min-duration", "1s", "--min-query-count", 1)
    (run,) = measured("fast", *load, "--blocks", 1, "--warm-up", 0).runs
    total = run["total"]
    assert total["latency"]["p95"] > 0.7 * STALL
    assert total["service_time"]["p90"] < STALL / 2
    assert total["lateness"]["p95"] > 0.7 * STALL
    assert total["delayed_queries"] > 100 * STALL / 2
    late = f"the generator could not keep up: {total['delayed_queries'] / total['queries']:.1%} of the queries"
    assert any(problem.startswith(late) for problem in run["problems"])


def test_ctrl_c_ends_a_block_without_waiting_for_calls_that_hang(server: FakeServer, measured: Measure) -> None:
    """The calls that the generator cancels do not count as errors."""
    ended = threading.Event()

    def behaviour(number: int, context: Any) -> None:
        if number == 10:
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        if number >= 10:
            ended.wait(20)

    server.behaviour = behaviour
    began = time.monotonic()
    result = measured("fast", "--concurrency", 3, "--rate", 50, "--min-duration", 30, "--warm-up", 0)
    assert time.monotonic() - began < 15
    ended.set()
    (run,) = result.runs
    assert run["total"]["statuses"] == {"OK": 9}
    assert not run["total"]["finished"]
    assert run["planned_blocks"] == 5
    assert "ended too early" in run["problems"][0]
    assert result.document["interrupted"]
    assert result.document["problems"] == ["The test was interrupted, so only a part of the test was measured"]
