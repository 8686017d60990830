import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.loadtest.generator.block_result import OK
from hangtag.serving.loadtest.generator.channels.http_channel import HttpChannel
from hangtag.serving.loadtest.generator.channels.http_text import LIVE, as_text
from hangtag.serving.loadtest.generator.generator import Generator
from hangtag.serving.loadtest.generator.messages import CLASSIFY, INFER, Block, Snapshot
from hangtag.serving.loadtest.measuring.run import Run
from hangtag.serving.loadtest.plan.limits import Limits
from hangtag.serving.loadtest.plan.load import ClosedLoop, Load, OpenLoop
from hangtag.serving.loadtest.sut.null_server import null_server
from tests.serving.loadtest.fake_server import FakeServer
from tests.serving.loadtest.generator.blocks import generator_run, limits, make_generator, run

pytestmark = pytest.mark.slow

STALL = 0.6  # Seconds.


@pytest.fixture(params=["queue", "futures"])
def generator(server: FakeServer, request: pytest.FixtureRequest) -> Iterator[Generator]:
    """A generator on each of the two channel implementations."""
    new = make_generator(server, public=request.param == "futures", channels=2)
    assert ("futures" in new.channel_names) is (request.param == "futures")
    yield new
    new.close()


def stall_once(at: int) -> Any:
    """A behaviour that delays all calls from number `at` on by STALL seconds, as a garbage collection does."""
    lock = threading.Lock()

    def behaviour(number: int, context: grpc.ServicerContext) -> None:
        with lock:
            if number == at:
                threading.Event().wait(STALL)

    return behaviour


def test_a_closed_loop_keeps_its_concurrency_in_flight(server: FakeServer, generator: Generator) -> None:
    in_flight = most = 0
    lock = threading.Lock()
    together = threading.Barrier(4, timeout=5.0)

    def behaviour(number: int, context: grpc.ServicerContext) -> None:
        nonlocal in_flight, most
        with lock:
            in_flight += 1
            most = max(most, in_flight)
        if number < 4:
            together.wait()  # All four slots are filled, or this breaks.
        with lock:
            in_flight -= 1

    server.behaviour = behaviour
    result = run(generator, ClosedLoop(4), limits(count=100))
    assert most == 4
    assert 100 <= result.statuses[OK] <= 103
    assert result.finished
    assert result.failed == 0


def test_an_open_loop_sends_its_schedule(generator: Generator) -> None:
    result = run(generator, OpenLoop(200.0, "constant"), limits(duration=0.5, count=50), warm_up=0.1)
    assert 100 <= result.queries <= 102
    assert 19 <= result.warm_up_queries <= 21
    assert result.window == pytest.approx(0.5, abs=0.1)
    assert result.finished


def test_a_stall_of_the_server_shows_in_the_open_loop_and_hides_in_the_closed_one(
    server: FakeServer, generator: Generator
) -> None:
    server.behaviour = stall_once(at=150)
    closed = run(generator, ClosedLoop(1), limits(count=300))
    # One query of 300 met the stall, so p99 does not show it: coordinated omission.
    assert closed.latency.maximum > 0.9 * STALL
    assert closed.latency.percentile(99) < STALL / 3

    server.requests.clear()
    server.behaviour = stall_once(at=150)
    opened = run(generator, OpenLoop(300.0, "constant"), limits(count=300))
    # All queries due during the stall waited: the second half of the schedule.
    assert opened.latency.percentile(99) > 0.8 * STALL
    assert opened.latency.percentile(80) > STALL / 4


def test_a_stall_of_the_generator_counts_from_the_planned_time_and_makes_the_run_invalid(generator: Generator) -> None:
    (channels,) = generator._channels.values()
    send = channels[0].send
    sent = 0

    def stalling(*args: Any) -> None:
        nonlocal sent
        sent += 1
        send(*args)
        if sent == 50:
            threading.Event().wait(STALL)

    channels[1:] = []
    channels[0].send = stalling  # type: ignore[method-assign, assignment]
    result = run(generator, OpenLoop(200.0, "constant"), limits(count=200))
    assert result.latency.percentile(99) > 0.8 * STALL
    assert result.service.percentile(99) < STALL / 2
    assert result.delayed > 200 * STALL / 2
    (problem,) = Run((result,), batch_size=1).problems
    assert "the generator could not keep up" in problem


def test_a_stall_of_the_thread_that_writes_http_counts_as_the_generators_too() -> None:
    """The pacer hands each query over in time, but the event loop's thread, which writes it, stands still."""
    with null_server("HTTP") as address:
        generator = make_generator(FakeServer(), address=address, requests=(as_text(address, LIVE),))
        (channel,) = generator._channels[address]
        assert isinstance(channel, HttpChannel)
        send, sent = channel.send, itertools.count(1)

        def stalling(*args: Any) -> None:
            send(*args)
            if next(sent) == 50:
                channel._loop.call_soon_threadsafe(time.sleep, STALL)

        channel.send = stalling  # type: ignore[method-assign, assignment]
        result = run(generator, OpenLoop(200.0, "constant"), limits(count=200))
        generator.close()
    assert result.latency.percentile(99) > 0.8 * STALL
    assert result.service.percentile(95) < STALL / 2
    assert result.delayed > 200 * STALL / 2
    (problem,) = Run((result,), batch_size=1).problems
    assert "the generator could not keep up" in problem


def test_an_open_loop_that_falls_behind_ends_at_its_maximum(generator: Generator) -> None:
    """A block of half a second, of which the generator needs a tenth of a second for each query."""
    (channels,) = generator._channels.values()
    send = channels[0].send

    def slow(*args: Any) -> None:
        send(*args)
        threading.Event().wait(0.1)

    channels[1:] = []
    channels[0].send = slow  # type: ignore[method-assign, assignment]
    result = run(generator, OpenLoop(200.0, "constant"), limits(duration=0.4, longest=0.5))
    assert result.queries < 40  # Of 80.
    assert not result.finished
    too_early, too_late = Run((result,), batch_size=1).problems
    assert "it ended too early" in too_early
    assert "the generator could not keep up" in too_late


def test_errors_are_counted_by_status_with_their_first_message(server: FakeServer, generator: Generator) -> None:
    def behaviour(number: int, context: grpc.ServicerContext) -> None:
        if number % 5 == 0:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"queue is full ({number})")

    server.behaviour = behaviour
    result = run(generator, ClosedLoop(1), limits(count=100))
    assert result.statuses == {OK: 80, "RESOURCE_EXHAUSTED": 20}
    assert result.details == {"RESOURCE_EXHAUSTED": "queue is full (0)"}
    (problem,) = Run((result,), batch_size=1).problems
    assert problem == "20 of 100 calls failed (20 RESOURCE_EXHAUSTED)"


def test_a_call_that_outlives_its_deadline_is_counted(server: FakeServer) -> None:
    gate = threading.Event()
    server.behaviour = lambda number, context: None if number else (gate.wait(5.0), None)[1]
    generator = make_generator(server, deadline=0.2)
    result = run(generator, ClosedLoop(1), limits(count=3))
    gate.set()
    generator.close()
    assert result.statuses == {"DEADLINE_EXCEEDED": 1, OK: 2}


def test_a_closed_loop_on_a_dead_server_ends(server: FakeServer) -> None:
    generator = make_generator(server, address="127.0.0.1:1", deadline=1.0)
    result = run(generator, ClosedLoop(2), limits(count=20))
    generator.close()
    assert set(result.statuses) == {"UNAVAILABLE"}
    assert len(result.latency) == 0


@pytest.mark.parametrize(
    ("within", "queries"),
    [(limits(duration=9.0, most=30), 30), (limits(count=10_000, longest=0.3), None)],
)
@pytest.mark.parametrize("load", [ClosedLoop(1), OpenLoop(500.0)])
def test_a_maximum_ends_a_block_unfinished(
    generator: Generator, load: Load, within: Limits, queries: int | None
) -> None:
    result = run(generator, load, within)
    assert not result.finished
    if queries:
        assert result.queries == queries
    (problem,) = Run((result,), batch_size=1).problems[:1]
    assert "it ended too early" in problem


def test_a_server_that_never_answers_ends_at_the_maximum(server: FakeServer) -> None:
    gate = threading.Event()
    server.behaviour = lambda number, context: (gate.wait(5.0), None)[1]
    generator = make_generator(server, deadline=0.5)
    result = run(generator, ClosedLoop(4), limits(count=100, longest=0.3))
    gate.set()
    generator.close()
    assert result.statuses == {"DEADLINE_EXCEEDED": 4}
    assert not result.finished


@pytest.mark.parametrize("load", [ClosedLoop(3), OpenLoop(100.0)])
def test_a_stop_ends_a_block_without_waiting_for_calls_that_hang(server: FakeServer, load: Load) -> None:
    gate = threading.Event()
    server.behaviour = lambda number, context: (gate.wait(10.0), None)[1] if number >= 10 else None
    generator = make_generator(server, deadline=10.0)
    seen: list[Snapshot] = []

    def keep_going(snapshot: Snapshot) -> bool:
        seen.append(snapshot)
        return snapshot.queries < 10

    block = Block("fast", load, limits(duration=60.0, longest=60.0), 0.0, 0, 0)
    result = generator_run(generator, block, keep_going)
    gate.set()
    # Calls that the generator cancelled are no errors of the server's.
    assert result.statuses == {OK: 10}
    assert not result.finished
    assert seen[-1].queries == 10
    assert seen[-1].failed == 0


def test_requests_rotate_and_arrive_as_serialised(server: FakeServer) -> None:
    requests = tuple(pb.ModelInferRequest(model_name=name).SerializeToString() for name in "abc")
    generator = make_generator(server, requests=requests)
    run(generator, ClosedLoop(1), limits(count=6))
    generator.close()
    assert [request.model_name for request in server.requests] == ["a", "b", "c", "a", "b", "c"]


def test_processes_share_the_rotation_of_requests(server: FakeServer) -> None:
    requests = tuple(pb.ModelInferRequest(model_name=name).SerializeToString() for name in "abc")
    second = make_generator(server, requests=requests, process=1, processes=2)
    run(second, ClosedLoop(2), limits(count=3))  # One of the two in flight is this process's.
    second.close()
    assert [request.model_name for request in server.requests] == ["b", "a", "c"]


def test_a_process_without_a_share_of_the_load_ends_at_once(server: FakeServer) -> None:
    second = make_generator(server, process=1, processes=2)
    result = run(second, ClosedLoop(1), limits(count=3))
    second.close()
    assert result.queries == 0


def test_the_processes_shares_of_an_open_loop_are_the_whole_schedule(server: FakeServer) -> None:
    within, load = limits(count=60), OpenLoop(300.0)
    parts = [make_generator(server, process=number, processes=3) for number in range(3)]
    queries = [run(part, load, within).queries for part in parts]
    for part in parts:
        part.close()
    assert queries == [20, 20, 20]


def test_a_closed_loop_on_a_dead_server_does_not_spin(server: FakeServer) -> None:
    generator = make_generator(server, address="127.0.0.1:1", deadline=1.0)
    result = run(generator, ClosedLoop(1), limits(duration=0.3, longest=0.5))
    generator.close()
    assert 1 <= result.failed <= 50


def test_the_method_names_are_the_protocols() -> None:
    assert INFER == "/inference.GRPCInferenceService/ModelInfer"
    assert CLASSIFY == "/hangtag.v1.Classifier/Classify"
