"""What happens while every instance is busy: a full queue, late and cancelled calls, a batch that fails, overload.

Here the call in the middle is late, cancelled or wrong; the batcher's own tests have the first and the last too.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from hangtag.protos import inference_pb2_grpc
from tests.kit.conversation import gather, opened
from tests.kit.gate import Gate
from tests.kit.live import LiveServer, failure, index, number, outputs, request
from tests.kit.over_http import EVERY_TRANSPORT, HTTP, live_server
from tests.kit.waiting import TIMEOUT, until


class Busy:
    """A server whose only instance for gather computes a call, until the gate is opened."""

    def __init__(self, live: LiveServer, gate: Gate) -> None:
        self.live, self.gate = live, gate
        self.waiting = 0
        self.computing = self._send(0, TIMEOUT, live.inference)
        gate.wait_until_computing()

    def ask(self, value: int, *, timeout: float | None = TIMEOUT, stub: Any = None) -> Any:
        """A call that is in the queue when this returns."""
        call = self._send(value, timeout, stub or self.live.inference)
        self.waiting += 1
        self.live.wait_until_queued("gather", self.waiting)
        return call

    def wait_until_left(self, count: int = 1) -> None:
        """Wait until so many calls have left the queue, though none was computed."""
        self.waiting -= count
        self.live.wait_until_queued("gather", self.waiting)

    @staticmethod
    def _send(value: int, timeout: float | None, stub: Any) -> Any:
        return stub.ModelInfer.future(request("gather", index=index(value)), timeout=timeout)


@contextmanager
def busy(live: LiveServer) -> Iterator[Busy]:
    with live.gates.closed("gather") as gate:
        yield Busy(live, gate)


def value_of(call: Any) -> float:
    return float(outputs(call.result())["value"].item())


@EVERY_TRANSPORT
def test_a_full_queue_refuses_at_once_and_answers_what_it_holds(own: LiveServer, transport: str) -> None:
    with busy(own) as server:
        waiting = [server.ask(value) for value in (0, 1, 2, 3)]
        code, message = failure(lambda: own.infer(request("gather", index=index(1))))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert message.startswith("4 requests are waiting, as many as the queue holds; try again later")
        if transport != HTTP:
            (answer,) = opened(own, gather(1)).finish()
            assert answer.error_message == message
            assert answer.infer_response.parameters["status"].string_param == "RESOURCE_EXHAUSTED"
        assert own.infer(request("unbatched", x=index(1, 2, 3, 4).astype("f4")))  # another model has its own queue
        server.gate.open()
        assert [value_of(call) for call in (server.computing, *waiting)] == [0, 0, 10, 20, 30]
        assert server.gate.batch_sizes == [1, 4]
    assert own.statistics("gather").inference_count == 5


@EVERY_TRANSPORT
def test_a_cancelled_call_is_not_computed_and_makes_room_and_its_neighbours_are_answered(own: LiveServer) -> None:
    with busy(own) as server:
        calls = [server.ask(value) for value in (1, 2, 3, 0)]
        calls.pop(1).cancel()
        server.wait_until_left()
        calls.append(server.ask(1))
        server.gate.open()
        assert [value_of(call) for call in calls] == [10, 30, 0, 10]
        assert value_of(server.computing) == 0
        assert server.gate.batch_sizes == [1, 4]
    own.wait_until_failed("gather", 1)
    statistics = own.statistics("gather")
    assert (statistics.inference_count, statistics.execution_count) == (5, 2)


@EVERY_TRANSPORT
def test_a_late_call_is_not_computed_and_its_neighbours_are_answered(own: LiveServer) -> None:
    with busy(own) as server:
        calls = [server.ask(0)]
        late = server.ask(1, timeout=0.5)
        calls.append(server.ask(2))
        assert late.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        server.wait_until_left()
        server.gate.open()
        assert [value_of(call) for call in calls] == [0, 20]
        assert value_of(server.computing) == 0
        assert server.gate.batch_sizes == [1, 2]
    assert own.statistics("gather").inference_count == 3


@EVERY_TRANSPORT
def test_a_requests_own_timeout_is_a_deadline_too(own: LiveServer) -> None:
    """Triton's parameter, in microseconds. The server goes by it alone: the caller itself would wait for long."""
    with busy(own) as server:
        waiting = server.ask(2)
        hurried = request("gather", index=index(1))
        hurried.parameters["timeout"].int64_param = 300_000
        late = own.begin(hurried)
        own.wait_until_queued("gather", 2)
        passed = time.monotonic() + 0.3
        until(lambda: time.monotonic() > passed)
        server.gate.open()
        code, message = failure(late.result)
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "deadline" in message
        assert [value_of(call) for call in (server.computing, waiting)] == [0, 20]
        assert server.gate.batch_sizes == [1, 1]


@EVERY_TRANSPORT
def test_a_call_that_cannot_be_answered_in_time_is_refused_at_once(own: LiveServer) -> None:
    """By the server, which gets the caller's deadline with the request and has measured what a batch takes."""
    own.gates.counted("gather").delay = 0.5
    assert own.infer(request("gather", index=index(1)))["value"].tolist() == [10]
    code, message = failure(lambda: own.inference.ModelInfer(request("gather", index=index(1)), timeout=0.4))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "nothing was started. Allow more time" in message
    assert own.statistics("gather").inference_count == 1


@EVERY_TRANSPORT
def test_the_queue_delay_makes_no_call_miss_its_deadline(few: Path, transport: str) -> None:
    with live_server(transport, few, max_queue_delay_microseconds=10_000_000) as live:
        answer = live.inference.ModelInfer(request("gather", index=index(2)), timeout=1)
        assert outputs(answer)["value"].tolist() == [20]


def test_calls_of_a_client_that_disconnects_are_dropped_and_others_answered(own: LiveServer) -> None:
    with busy(own) as server:
        with own.connect() as lost:
            stub = inference_pb2_grpc.GRPCInferenceServiceStub(lost)
            gone = [server.ask(value, stub=stub) for value in (1, 2)]
            stays = server.ask(3)
        server.wait_until_left(2)
        server.gate.open()
        assert [value_of(call) for call in (server.computing, stays)] == [0, 30]
        assert all(call.exception().code() is grpc.StatusCode.CANCELLED for call in gone)
        assert server.gate.batch_sizes == [1, 1]


@EVERY_TRANSPORT
def test_a_call_that_is_cancelled_while_it_is_computed_fails_no_other(own: LiveServer) -> None:
    with busy(own) as server:
        server.computing.cancel()
        own.wait_until_failed("gather", 1)
        waiting = server.ask(2)
        server.gate.open()
        assert value_of(waiting) == 20
    assert own.infer(request("gather", index=index(3)))["value"].tolist() == [30]


@EVERY_TRANSPORT
def test_a_request_with_invalid_values_fails_alone(own: LiveServer) -> None:
    with busy(own) as server:
        calls = [server.ask(value) for value in (0, 99, 2)]
        server.gate.open()
        assert value_of(server.computing) == 0
        bad = calls.pop(1).exception()
        assert bad.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert bad.details().startswith("ONNX Runtime refuses the values in the request: ")
        assert "idx=99 must be within" in bad.details()
        assert [value_of(call) for call in calls] == [0, 20]
        assert server.gate.batch_sizes == [1, 3, 1, 1, 1]
    statistics = own.statistics("gather")
    assert (statistics.inference_stats.success.count, statistics.inference_stats.fail.count) == (3, 1)


@EVERY_TRANSPORT
def test_a_failed_batch_fails_alone(own: LiveServer) -> None:
    with busy(own) as server:
        calls = [server.ask(place) for place in range(3)]
        server.ask(3).cancel()
        server.wait_until_left()
        with own.gates.failing("gather"):
            server.gate.open()
            assert value_of(server.computing) == 0
            for call in calls:
                assert call.exception().code() is grpc.StatusCode.INTERNAL
                assert call.exception().details().startswith("ONNX Runtime failed: ")
        assert own.infer(request("gather", index=index(3)))["value"].tolist() == [30]
    own.wait_until_failed("gather", 4)
    assert own.statistics("gather").inference_stats.success.count == 2


def test_the_calls_in_flight_on_a_connection_are_limited(few: Path, transport: str) -> None:
    with live_server(transport, few, max_concurrent_streams=2, instances=1) as live:
        warm = live.infer(request("free_axis", x=number(1)))  # the client has the server's limit from here on
        assert warm["total"].tolist() == [[1]]
        with busy(live) as server:
            calls = [server.computing, server.ask(1)]
            beyond = live.begin(gather(2))
            own_connection = [("grpc.use_local_subchannel_pool", 1)]  # else channels to one address share one
            with grpc.insecure_channel(live.server.address, own_connection) as other:
                # so what is beyond would have come by now
                calls.append(server.ask(3, stub=inference_pb2_grpc.GRPCInferenceServiceStub(other)))
                assert live.queued("gather") == 2
                server.gate.open()
                assert [value_of(call) for call in (*calls, beyond)] == [0, 10, 30, 20]


CALLERS, ANSWERS, BATCH, QUEUE = 40, 300, 2, 6
MOST_BATCHES = QUEUE // BATCH + 1
"""Batches that can begin after a request was accepted, its own included: those of a full queue, and one that was taken
just before and is counted just after."""


@EVERY_TRANSPORT
def test_requests_accepted_in_overload_wait_no_longer_than_a_full_queue_takes(few: Path, transport: str) -> None:
    """Far more callers than it can answer."""
    waited: list[float] = []
    server = live_server(transport, few, max_batch_size=BATCH, max_queue_size=QUEUE, instances=1)
    with server as live, live.gates.closed("gather") as gate:
        gate.delay = 0.003

        def ask() -> grpc.StatusCode:
            call = live.begin(gather(2))
            try:
                assert value_of(call) == 20
            except grpc.RpcError as error:
                code: grpc.StatusCode = error.code()
                return code
            waited.append(int(dict(call.trailing_metadata())["hangtag-queue-ns"]) / 1e9)
            return grpc.StatusCode.OK

        def call() -> list[grpc.StatusCode]:
            ends = []
            while len(waited) < ANSWERS:
                ends.append(ask())
            return ends

        with ThreadPoolExecutor(CALLERS) as pool:
            callers = [pool.submit(call) for _ in range(CALLERS)]
            live.wait_until_queued("gather", QUEUE)
            assert ask() is grpc.StatusCode.RESOURCE_EXHAUSTED
            gate.open()
            ends = [end for caller in callers for end in caller.result(2 * TIMEOUT)]
        assert set(ends) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert live.statistics("gather").inference_stats.success.count == ends.count(grpc.StatusCode.OK)
        longest = max(last - first for first, last in zip(gate.begun, gate.begun[MOST_BATCHES:], strict=False))
        assert max(waited) <= longest
