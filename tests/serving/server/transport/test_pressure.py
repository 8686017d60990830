"""A server with busy instances: a full queue, late and cancelled calls, a failing batch, and overload.

In these tests, a call in the middle of the queue is late, cancelled or wrong. test_batcher tests both ends of the
queue."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from studies.stubs import InferenceStub
from tests.kit.conversation import gather, opened
from tests.kit.live import LiveServer, failure, index, number, outputs, request
from tests.kit.over_http import HTTP, OVER_GRPC, live_server
from tests.kit.waiting import TIMEOUT, pass_time


def values(calls: list[Any]) -> list[float]:
    return [outputs(call.result())["value"].item() for call in calls]


def test_a_full_queue_refuses_at_once_and_answers_what_it_holds(own: LiveServer, transport: str) -> None:
    with own.gates.closed("gather") as gate:
        calls = own.occupy(gate, *map(gather, (0, 0, 1, 2, 3)))
        code, message = failure(lambda: own.infer(gather(1)))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert message.startswith("4 requests are waiting, and the queue holds no more; try again later")
        if transport != HTTP:
            (answer,) = opened(own, gather(1)).finish()
            assert answer.error_message == message
            assert answer.infer_response.parameters["status"].string_param == "RESOURCE_EXHAUSTED"
        assert own.infer(request("unbatched", x=index(1, 2, 3, 4).astype("f4")))  # each model has its own queue
        gate.open()
        assert values(calls) == [0, 0, 10, 20, 30]
        assert gate.batch_sizes == [1, 4]
    assert own.statistics("gather").inference_count == 5


def test_a_cancelled_call_is_not_computed_and_makes_room_and_its_neighbours_are_answered(own: LiveServer) -> None:
    with own.gates.closed("gather") as gate:
        calls = own.occupy(gate, *map(gather, (0, 1, 2, 3, 0)))
        calls.pop(2).cancel()
        own.wait_until_queued("gather", 3)
        calls.append(own.begin(gather(1)))
        own.wait_until_queued("gather", 4)
        gate.open()
        assert values(calls) == [0, 10, 30, 0, 10]
        assert gate.batch_sizes == [1, 4]
    own.wait_until_failed("gather", 1)
    statistics = own.statistics("gather")
    assert (statistics.inference_count, statistics.execution_count) == (5, 2)


def test_a_late_call_is_not_computed_and_its_neighbours_are_answered(own: LiveServer) -> None:
    with own.gates.closed("gather") as gate:
        calls = own.occupy(gate, gather(0), gather(0))
        late = own.begin(gather(1), timeout=0.5)
        own.wait_until_queued("gather", 2)
        calls.append(own.begin(gather(2)))
        own.wait_until_queued("gather", 3)
        assert late.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        own.wait_until_queued("gather", 2)
        gate.open()
        assert values(calls) == [0, 0, 20]
        assert gate.batch_sizes == [1, 2]
    assert own.statistics("gather").inference_count == 3


def test_a_requests_own_timeout_is_a_deadline_too(own: LiveServer) -> None:
    """Only the server applies Triton's parameter ``timeout``, in microseconds. The caller would wait longer."""
    with own.gates.closed("gather") as gate:
        calls = own.occupy(gate, gather(0), gather(2))
        late = own.begin(gather(1, timeout=300_000))
        own.wait_until_queued("gather", 2)
        pass_time(0.3)
        gate.open()
        code, message = failure(late.result)
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "deadline" in message
        assert values(calls) == [0, 20]
        assert gate.batch_sizes == [1, 1]


def test_a_call_that_cannot_be_answered_in_time_is_refused_at_once(own: LiveServer) -> None:
    """The server can refuse the call at once, because it knows the deadline and has measured the time of a batch."""
    own.gates.counted("gather").delay = 0.5
    assert own.infer(request("gather", index=index(1)))["value"].tolist() == [10]
    code, message = failure(lambda: own.inference.ModelInfer(request("gather", index=index(1)), timeout=0.4))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "nothing was started. Allow more time" in message
    assert own.statistics("gather").inference_count == 1


def test_the_queue_delay_makes_no_call_miss_its_deadline(few: Path, transport: str) -> None:
    with live_server(transport, few, max_queue_delay_microseconds=10_000_000) as live:
        answer = live.inference.ModelInfer(request("gather", index=index(2)), timeout=1)
        assert outputs(answer)["value"].tolist() == [20]


@OVER_GRPC
def test_calls_of_a_client_that_disconnects_are_dropped_and_others_answered(own: LiveServer) -> None:
    with own.gates.closed("gather") as gate:
        calls = own.occupy(gate, gather(0))
        with own.connect() as lost:
            stub = InferenceStub(lost)
            gone = [stub.ModelInfer.future(gather(value), timeout=TIMEOUT) for value in (1, 2)]
            own.wait_until_queued("gather", 2)
            calls.append(own.begin(gather(3)))
            own.wait_until_queued("gather", 3)
        own.wait_until_queued("gather", 1)
        gate.open()
        assert values(calls) == [0, 30]
        assert all(call.exception().code() is grpc.StatusCode.CANCELLED for call in gone)
        assert gate.batch_sizes == [1, 1]


def test_a_call_that_is_cancelled_while_it_is_computed_fails_no_other(own: LiveServer) -> None:
    with own.gates.closed("gather") as gate:
        (computing,) = own.occupy(gate, gather(0))
        computing.cancel()
        own.wait_until_failed("gather", 1)
        waiting = own.begin(gather(2))
        own.wait_until_queued("gather", 1)
        gate.open()
        assert values([waiting]) == [20]
    assert own.infer(request("gather", index=index(3)))["value"].tolist() == [30]


def test_a_request_with_invalid_values_fails_alone(own: LiveServer) -> None:
    with own.gates.closed("gather") as gate:
        calls = own.occupy(gate, *map(gather, (0, 0, 99, 2)))
        gate.open()
        bad = calls.pop(2).exception()
        assert bad.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert bad.details().startswith("ONNX Runtime refuses the request's values: ")
        assert "idx=99 must be within" in bad.details()
        assert values(calls) == [0, 0, 20]
        assert gate.batch_sizes == [1, 3, 1, 1, 1]
    statistics = own.statistics("gather")
    assert (statistics.inference_stats.success.count, statistics.inference_stats.fail.count) == (3, 1)


@OVER_GRPC
def test_the_calls_in_flight_on_a_connection_are_limited(few: Path, transport: str) -> None:
    with live_server(transport, few, max_concurrent_streams=2, instances=1) as live:
        warm = live.infer(request("free_axis", x=number(1)))  # after this call, the client knows the server's limit
        assert warm["total"].tolist() == [[1]]
        with live.gates.closed("gather") as gate:
            calls = live.occupy(gate, gather(0), gather(1))
            beyond = live.begin(gather(2))
            own_connection = [("grpc.use_local_subchannel_pool", 1)]  # no shared connection
            with grpc.insecure_channel(live.server.address, own_connection) as other:
                stub = InferenceStub(other)
                calls.append(stub.ModelInfer.future(gather(3), timeout=TIMEOUT))
                live.wait_until_queued("gather", 2)  # calls over the limit would have arrived by now
                gate.open()
                assert values([*calls, beyond]) == [0, 10, 30, 20]


CALLERS, ANSWERS, BATCH, QUEUE = 40, 300, 2, 6
MOST_BATCHES = QUEUE // BATCH + 1
"""The most batches that can start while a request waits: all batches of a full queue, and one that just left it."""


def test_requests_accepted_in_overload_wait_no_longer_than_a_full_queue_takes(few: Path, transport: str) -> None:
    """There are far more callers than the server can answer."""
    waited: list[float] = []
    server = live_server(transport, few, max_batch_size=BATCH, max_queue_size=QUEUE, instances=1)
    with server as live, live.gates.closed("gather") as gate:
        gate.delay = 0.003

        def ask() -> grpc.StatusCode:
            call = live.begin(gather(2))
            try:
                assert values([call]) == [20]
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
