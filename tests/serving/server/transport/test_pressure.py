"""What happens while every instance is busy: a full queue, late and cancelled calls, a batch that fails.

Here the one in the middle is late or cancelled; the batcher's own tests have the first and the last too.
"""

import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.batching.deadlines import TOO_LATE
from hangtag.serving.server.config.server_config import ServerConfig
from tests.kit.live import TIMEOUT, Gate, LiveServer, failure, index, number, outputs, request
from tests.kit.over_http import EVERY_TRANSPORT, live_server

pytestmark = pytest.mark.slow

VICTIMS = pytest.mark.parametrize("victim", [0, 1, 2], ids=["first", "middle", "last"])


def ask(own: LiveServer, gate: Gate, value: int, *, timeout: float | None = TIMEOUT, channel: Any = None) -> Any:
    """A call that is in the queue when this returns."""
    method = own.inference.ModelInfer
    if channel is not None:
        method = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
    call = method.future(request("gather", index=index(value)), timeout=timeout)
    gate.wait_until_queued()
    return call


def occupy(own: LiveServer, gate: Gate) -> Any:
    """A call that the only instance is computing."""
    call = ask(own, gate, 0)
    gate.wait_until_computing()
    return call


def statistics_after_failures(own: LiveServer, count: int) -> pb.ModelStatistics:
    """The model's statistics once this many failures are counted: a cancelled call's may come after its client left."""
    ends = time.monotonic() + TIMEOUT
    while (statistics := own.statistics("gather")).inference_stats.fail.count < count:
        assert time.monotonic() < ends
    return statistics


def value_of(call: Any) -> float:
    (value,) = outputs(call.result())["value"].tolist()
    return float(value)


@EVERY_TRANSPORT
def test_a_full_queue_refuses_at_once_and_answers_what_it_holds(own: LiveServer) -> None:
    with own.gate("gather") as gate:
        computing = occupy(own, gate)
        waiting = [ask(own, gate, value) for value in (0, 1, 2, 3)]
        code, message = failure(lambda: own.infer(request("gather", index=index(1))))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert message.startswith("4 requests are waiting, as many as the queue holds; try again later")
        assert own.infer(request("unbatched", x=index(1, 2, 3, 4).astype("f4")))  # another model has its own queue
        gate.open()
        assert [value_of(call) for call in (computing, *waiting)] == [0, 0, 10, 20, 30]
        assert gate.batch_sizes == [1, 4]
    assert own.statistics("gather").inference_count == 5


@EVERY_TRANSPORT
def test_a_cancelled_call_is_not_computed_and_its_neighbours_are_answered(own: LiveServer) -> None:
    with own.gate("gather") as gate:
        computing = occupy(own, gate)
        calls = [ask(own, gate, value) for value in (1, 2, 3)]
        calls.pop(1).cancel()
        gate.wait_until_cancelled()
        gate.open()
        assert [value_of(call) for call in calls] == [10.0, 30.0]
        assert value_of(computing) == 0
        assert gate.batch_sizes == [1, 2]
    statistics = statistics_after_failures(own, 1)
    assert (statistics.inference_count, statistics.execution_count, statistics.inference_stats.fail.count) == (3, 2, 1)


@EVERY_TRANSPORT
def test_a_late_call_is_not_computed_and_its_neighbours_are_answered(own: LiveServer) -> None:
    with own.gate("gather") as gate:
        computing = occupy(own, gate)
        calls = [ask(own, gate, value, timeout=0.5 if value == 1 else TIMEOUT) for value in range(3)]
        assert calls.pop(1).exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        gate.wait_until_cancelled()
        gate.open()
        assert [value_of(call) for call in calls] == [0.0, 20.0]
        assert value_of(computing) == 0
        assert gate.batch_sizes == [1, 2]
    assert own.statistics("gather").inference_count == 3


@EVERY_TRANSPORT
def test_the_callers_deadline_travels_with_the_request(own: LiveServer) -> None:
    with own.gate("gather") as gate:
        computing = occupy(own, gate)
        calls = [ask(own, gate, value, timeout=TIMEOUT if value == 1 else None) for value in range(3)]
        own.model("gather").batcher._clock = lambda: time.monotonic() + 2 * TIMEOUT
        gate.open()
        late = calls.pop(1).exception()  # the caller's own clock has not run out
        assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert late.details() == TOO_LATE
        assert [value_of(call) for call in calls] == [0.0, 20.0]
        assert value_of(computing) == 0
        assert gate.batch_sizes == [1, 2]


def test_calls_of_a_client_that_disconnects_are_dropped_and_others_answered(own: LiveServer) -> None:
    with own.gate("gather") as gate:
        computing = occupy(own, gate)
        with own.connect() as lost:
            gone = [ask(own, gate, value, channel=lost) for value in (1, 2)]
            stays = ask(own, gate, 3)
        gate.wait_until_cancelled(2)
        gate.open()
        assert [value_of(call) for call in (computing, stays)] == [0, 30]
        assert all(call.exception().code() is grpc.StatusCode.CANCELLED for call in gone)
        assert gate.batch_sizes == [1, 1]


@EVERY_TRANSPORT
def test_a_call_that_is_cancelled_while_it_is_computed_fails_no_other(own: LiveServer) -> None:
    with own.gate("gather") as gate:
        computing = occupy(own, gate)
        computing.cancel()
        gate.wait_until_cancelled()
        waiting = ask(own, gate, 2)
        gate.open()
        assert value_of(waiting) == 20
    assert own.infer(request("gather", index=index(3)))["value"].tolist() == [30]


@EVERY_TRANSPORT
def test_cancelling_makes_room_in_the_queue(own: LiveServer) -> None:
    with own.gate("gather") as gate:
        computing = occupy(own, gate)  # a call that nothing refers to would be cancelled
        waiting = [ask(own, gate, value) for value in (0, 1, 2, 3)]
        waiting[1].cancel()
        gate.wait_until_cancelled()
        late_comer = ask(own, gate, 1)
        gate.open()
        assert value_of(late_comer) == 10
        assert value_of(computing) == 0


@EVERY_TRANSPORT
@VICTIMS
def test_a_request_with_invalid_values_fails_alone(own: LiveServer, victim: int) -> None:
    with own.gate("gather") as gate:
        computing = occupy(own, gate)
        calls = [ask(own, gate, 99 if place == victim else place) for place in range(3)]
        gate.open()
        assert value_of(computing) == 0
        bad = calls.pop(victim).exception()
        assert bad.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert bad.details().startswith("ONNX Runtime refuses the values in the request: ")
        assert "idx=99 must be within" in bad.details()
        assert [value_of(call) for call in calls] == [10.0 * place for place in range(3) if place != victim]
        assert gate.batch_sizes == [1, 3, 1, 1, 1]
    statistics = own.statistics("gather")
    assert (statistics.inference_stats.success.count, statistics.inference_stats.fail.count) == (3, 1)


@EVERY_TRANSPORT
def test_a_failed_batch_fails_alone(own: LiveServer) -> None:
    with own.gate("gather") as gate:
        computing = occupy(own, gate)
        calls = [ask(own, gate, place) for place in range(3)]
        ask(own, gate, 3).cancel()
        gate.wait_until_cancelled()
        with own.broken("gather"):
            gate.open()
            assert value_of(computing) == 0
            for call in calls:
                assert call.exception().code() is grpc.StatusCode.INTERNAL
                assert call.exception().details().startswith("ONNX Runtime failed: ")
        assert value_of(ask(own, gate, 3)) == 30
    statistics = statistics_after_failures(own, 4)
    assert (statistics.inference_stats.success.count, statistics.inference_stats.fail.count) == (2, 4)


@EVERY_TRANSPORT
def test_a_call_that_cannot_be_answered_in_time_is_refused_at_once(own: LiveServer) -> None:
    own.infer(request("gather", index=index(1)))
    model = own.model("gather")
    for _ in range(60):  # each counts as four times what was expected, at most
        model.batcher._service_time.observe(1, 1000.0)
    code, message = failure(lambda: own.infer(request("gather", index=index(1))))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "nothing was started. Allow more time" in message
    assert own.statistics("gather").inference_count == 1


@EVERY_TRANSPORT
def test_a_requests_own_timeout_is_a_deadline_too(own: LiveServer) -> None:
    """Triton's parameter, in microseconds."""
    with own.gate("gather") as gate:
        first = own.inference.ModelInfer.future(request("gather", index=index(0)), timeout=TIMEOUT)
        gate.wait_until_computing()
        hurried, patient = request("gather", index=index(1)), request("gather", index=index(2))
        hurried.parameters["timeout"].int64_param = 1
        patient.parameters["timeout"].int64_param = round(TIMEOUT * 1e6)
        waiting = own.inference.ModelInfer.future(patient, timeout=TIMEOUT)
        gate.wait_until_queued(2)
        late = own.inference.ModelInfer.future(hurried, timeout=TIMEOUT)
        gate.open()
        assert failure(late.result)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        assert [outputs(call.result())["value"].item() for call in (first, waiting)] == [0, 20]
    assert own.statistics("gather").inference_count == 2


@EVERY_TRANSPORT
@pytest.mark.parametrize("microseconds", [0, -1])
def test_an_invalid_timeout_is_refused(own: LiveServer, microseconds: int) -> None:
    sent = request("gather", index=index(1))
    sent.parameters["timeout"].int64_param = microseconds
    code, message = failure(lambda: own.inference.ModelInfer(sent, timeout=TIMEOUT))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert f"must be an int64 of microseconds above 0, not {microseconds}" in message


@EVERY_TRANSPORT
def test_the_queue_delay_makes_no_call_miss_its_deadline(few: Path, transport: str) -> None:
    with live_server(transport, few, max_queue_delay_microseconds=10_000_000) as live:
        answer = live.inference.ModelInfer(request("gather", index=index(2)), timeout=1)
        assert outputs(answer)["value"].tolist() == [20]


def test_the_calls_in_flight_on_a_connection_are_limited(few: Path, transport: str) -> None:
    config = ServerConfig(models=few, port=0, http_port=-1, max_concurrent_streams=2, instances=1, transport=transport)
    with LiveServer(config) as live, live.gate("gather") as gate:
        warm = live.infer(request("free_axis", x=number(1)))  # the client has the server's limit from here on
        assert warm["total"].tolist() == [[1]]
        calls = [occupy(live, gate), ask(live, gate, 1)]
        beyond = live.inference.ModelInfer.future(request("gather", index=index(2)), timeout=TIMEOUT)
        own_connection = [("grpc.use_local_subchannel_pool", 1)]  # else channels to one address share one
        with grpc.insecure_channel(live.server.address, own_connection) as other:
            calls.append(ask(live, gate, 3, channel=other))  # so what is beyond would have come by now
            assert len(live.model("gather").batcher) == 2
            gate.open()
            assert [value_of(call) for call in (*calls, beyond)] == [0, 10, 30, 20]
