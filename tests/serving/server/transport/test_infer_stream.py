"""ModelStreamInfer: order, failures in their place, batches, cancellation, deadlines, back-pressure and stop."""

import threading
import time
from typing import Any

import grpc
import numpy as np
import pytest

from protos import inference_pb2 as pb
from serving.server.transport import streams
from tests.serving.server.transport.conversation import Conversation
from tests.serving.server.transport.live import TIMEOUT, Gate, LiveServer, failure, index, number, outputs, request

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def gather(value: int, name: str = "", **parameters: int) -> pb.ModelInferRequest:
    """Answered with ten times the value; 99 fails."""
    sent = request("gather", index=index(value))
    sent.id = name
    for key, parameter in parameters.items():
        sent.parameters[key].int64_param = parameter
    return sent


def value_of(response: pb.ModelStreamInferResponse) -> float:
    assert response.error_message == ""
    return float(outputs(response.infer_response)["value"].item())


def opened(live: LiveServer, *sent: pb.ModelInferRequest | None, **options: Any) -> Conversation:
    return Conversation(live.inference.ModelStreamInfer, *sent, **options)


def occupied(own: LiveServer, gate: Gate) -> Any:
    """A call without a stream that the only instance is computing."""
    call = own.inference.ModelInfer.future(request("gather", index=index(0)), timeout=TIMEOUT)
    gate.wait_until_queued()
    gate.wait_until_computing()
    return call


def test_a_stream_of_many_models_is_answered_in_order_with_ids(live: LiveServer) -> None:
    sent = []
    for place in range(60):
        one = gather(place % 4) if place % 3 else request("free_axis", x=np.full((1, 1 + place % 5), place, np.float32))
        one.id = f"number {place}"
        sent.append(one)
    answers = opened(live, *sent).finish()
    assert [answer.infer_response.id for answer in answers] == [f"number {place}" for place in range(60)]
    for place, answer in enumerate(answers):
        (got,) = outputs(answer.infer_response).values()
        assert got.item() == (place % 4 * 10 if place % 3 else place * (1 + place % 5))
        assert answer.infer_response.parameters["triton_final_response"].bool_param


def test_an_answer_says_what_it_cost(live: LiveServer) -> None:
    (answer,) = opened(live, gather(1)).finish()
    parameters = answer.infer_response.parameters
    assert parameters["batch_size"].int64_param == 1
    assert parameters["compute_ns"].int64_param > 0
    assert parameters["queue_ns"].int64_param >= 0


def test_an_answer_comes_before_the_next_request(live: LiveServer) -> None:
    talk = opened(live)
    for value in (3, 1, 2):
        talk.send(gather(value))
        assert value_of(talk.receive()) == 10 * value
    assert talk.finish() == []
    assert talk.call.code() is grpc.StatusCode.OK


def test_a_stream_of_nothing_ends_well(live: LiveServer) -> None:
    assert opened(live).finish() == []


def test_what_fails_is_answered_in_its_place_and_the_stream_goes_on(live: LiveServer) -> None:
    unknown, wrong, full = gather(1, "a"), gather(1, "b"), request("gather", index=index(*range(17)))
    unknown.model_name, wrong.inputs[0].name, full.id = "nobody", "place", "c"
    talk = opened(live, gather(1), unknown, gather(2), wrong, full)
    answers = [talk.receive() for _ in range(5)]
    talk.send(gather(99, "d"))  # computed alone: a batch that fails, fails for all in it
    answers.append(talk.receive())
    talk.send(gather(3))
    answers += talk.finish()
    assert [value_of(answers[place]) for place in (0, 2, 6)] == [10, 20, 30]
    failed = [answers[place] for place in (1, 3, 4, 5)]
    told = [(one.infer_response.id, one.infer_response.parameters["status"].string_param) for one in failed]
    assert told == [("a", "NOT_FOUND"), ("b", "INVALID_ARGUMENT"), ("c", "INVALID_ARGUMENT"), ("d", "INTERNAL")]
    for one, message in zip(
        failed,
        ["no model 'nobody' is served", "unknown input 'place'", "17 samples in one request", "ONNX Runtime failed: "],
        strict=True,
    ):
        assert one.error_message.startswith(message)
        assert not one.infer_response.outputs
        assert one.infer_response.parameters["triton_final_response"].bool_param


def test_requests_of_one_stream_share_batches_with_each_other_and_with_calls(own: LiveServer) -> None:
    with own.gate("gather") as gate:
        computing = occupied(own, gate)
        talk = opened(own, gather(1), gather(2), gather(3))
        gate.wait_until_queued(3)
        alone = own.inference.ModelInfer.future(request("gather", index=index(2)), timeout=TIMEOUT)
        gate.wait_until_queued()
        gate.open()
        assert [value_of(answer) for answer in talk.finish()] == [10, 20, 30]
        assert outputs(alone.result())["value"].item() == 20
        assert outputs(computing.result())["value"].item() == 0
        assert gate.batch_sizes == [1, 4]


def test_a_quick_answer_waits_for_the_slow_one_before_it(own: LiveServer) -> None:
    with own.gate("gather") as gate, own.gate("free_axis") as open_gate:
        open_gate.open()
        talk = opened(own, gather(1, "slow"), request("free_axis", x=number(7)))
        gate.wait_until_computing()
        open_gate.wait_until_computing()
        gate.open()
        slow, quick = talk.finish()
        assert slow.infer_response.id == "slow"
        assert outputs(quick.infer_response)["total"].tolist() == [[7]]


def test_a_client_is_read_only_as_far_as_it_is_answered(own: LiveServer) -> None:
    """The queue holds 4: more at once would be refused."""
    with own.gate("gather") as gate:
        talk = opened(own, *[gather(place % 4) for place in range(40)])
        gate.wait_until_queued(4)
        gate.open()
        assert [value_of(answer) for answer in talk.finish()] == [place % 4 * 10 for place in range(40)]


def test_a_full_queue_refuses_a_streams_request_at_once(own: LiveServer) -> None:
    with own.gate("gather") as gate:
        calls = [occupied(own, gate)]
        for value in range(4):
            calls.append(own.inference.ModelInfer.future(request("gather", index=index(value)), timeout=TIMEOUT))
            gate.wait_until_queued()
        talk = opened(own, gather(1))
        refused = talk.receive()
        assert refused.error_message.startswith("4 requests are waiting, as many as the queue holds")
        assert refused.infer_response.parameters["status"].string_param == "RESOURCE_EXHAUSTED"
        gate.open()
        talk.send(gather(2))
        assert value_of(talk.receive()) == 20
        assert all(call.result() for call in calls)


@pytest.mark.parametrize("vanish", [False, True], ids=["cancels", "vanishes"])
def test_a_client_that_goes_away_costs_nothing_and_takes_nobody_along(own: LiveServer, vanish: bool) -> None:
    with own.gate("gather") as gate:
        computing = occupied(own, gate)
        with own.connect() as channel:
            method = channel.stream_stream(
                "/inference.GRPCInferenceService/ModelStreamInfer",
                request_serializer=pb.ModelInferRequest.SerializeToString,
                response_deserializer=pb.ModelStreamInferResponse.FromString,
            )
            talk = Conversation(method, gather(1), gather(2))
            gate.wait_until_queued(2)
            stays = own.inference.ModelInfer.future(request("gather", index=index(3)), timeout=TIMEOUT)
            gate.wait_until_queued()
            if not vanish:
                talk.call.cancel()
                gate.wait_until_cancelled(2)
        if vanish:
            gate.wait_until_cancelled(2)
        gate.open()
        assert [outputs(call.result())["value"].item() for call in (computing, stays)] == [0, 30]
        assert gate.batch_sizes == [1, 1]
        assert talk.call.code() is grpc.StatusCode.CANCELLED
    assert own.statistics("gather").inference_count == 2


def test_a_streams_deadline_is_that_of_its_requests(own: LiveServer) -> None:
    with own.gate("gather") as gate:
        computing = occupied(own, gate)
        talk = opened(own, gather(1), gather(2), timeout=0.5)
        assert talk.end()[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        gate.wait_until_cancelled(2)
        gate.open()
        assert computing.result()
    assert own.statistics("gather").inference_count == 1


def test_a_request_may_have_a_deadline_of_its_own(own: LiveServer) -> None:
    with own.gate("gather") as gate:
        computing = occupied(own, gate)
        sent = gather(1), gather(2, "late", timeout=60_000_000), gather(3)
        talk = opened(own, *sent, timeout=None)
        gate.wait_until_queued(3)
        own.model("gather").batcher._clock = lambda: time.monotonic() + 61
        gate.open()
        first, late, last = talk.finish()
        assert [value_of(first), value_of(last)] == [10, 30]
        assert late.error_message == "the deadline passed while the request was waiting; nothing was computed"
        assert late.infer_response.id == "late"
        assert late.infer_response.parameters["status"].string_param == "DEADLINE_EXCEEDED"
        assert computing.result()
        assert gate.batch_sizes == [1, 2]


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_timeout_that_is_none_is_refused(live: LiveServer, timeout: int) -> None:
    (answer,) = opened(live, gather(1, timeout=timeout)).finish()
    assert answer.error_message.startswith("the parameter 'timeout' must be an int64 of microseconds above 0, not ")


def test_a_stop_answers_what_was_read_then_ends_the_stream(own: LiveServer) -> None:
    with own.gate("gather") as gate:
        talk = opened(own, gather(1), gather(2))
        gate.wait_until_queued(2)
        idle = opened(own, request("free_axis", x=number(1)))
        idle.receive()
        stopping = threading.Thread(target=own.server.stop, kwargs={"grace": 10 * TIMEOUT})
        stopping.start()
        assert idle.end()[0] is grpc.StatusCode.UNAVAILABLE
        gate.open()
        assert [value_of(talk.receive()), value_of(talk.receive())] == [10, 20]
        code, message = talk.end()
        assert code is grpc.StatusCode.UNAVAILABLE
        assert message.startswith("the server is stopping; send what it has not answered on a new stream")
        stopping.join(TIMEOUT)  # it waits for nobody who only listens
        assert not stopping.is_alive()


def test_a_stream_that_has_sent_all_ends_well_at_a_stop(own: LiveServer) -> None:
    with own.gate("gather") as gate:
        talk = opened(own, gather(1), None)
        gate.wait_until_computing()
        (stream,) = own.server._transport._streams._open
        with stream._changed:
            assert stream._changed.wait_for(lambda: stream._finished, TIMEOUT)
        stopping = threading.Thread(target=own.server.stop, kwargs={"grace": 10 * TIMEOUT})
        stopping.start()
        gate.open()
        assert [value_of(answer) for answer in talk.call] == [10]
        stopping.join(TIMEOUT)
        assert talk.call.code() is grpc.StatusCode.OK


def test_a_stopped_server_takes_no_new_stream(own: LiveServer) -> None:
    own.server._transport._streams.stop()
    code, message = opened(own, gather(1)).end()
    assert code is grpc.StatusCode.UNAVAILABLE
    assert message.startswith("the server is stopping and takes no new streams")


def test_more_streams_than_there_are_threads_for_are_refused(own: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_STREAMS", 2)
    talks = [opened(own, gather(1)) for _ in range(2)]
    assert [value_of(talk.receive()) for talk in talks] == [10, 10]
    code, message = opened(own, gather(1)).end()
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert message.startswith("2 streams are open")
    assert talks.pop().finish() == []
    (stream,) = set(own.server._transport._streams._open)
    assert stream is not None
    assert value_of(opened(own, gather(2)).receive()) == 20


def test_bytes_that_are_no_message_end_the_stream_after_what_came_before(live: LiveServer) -> None:
    method: Any = live.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    talk = Conversation(method, gather(1).SerializeToString(), b"\xff\xff\xff")
    assert value_of(pb.ModelStreamInferResponse.FromString(talk.receive())) == 10
    code, message = talk.end()
    assert code is INVALID
    assert message.startswith("the bytes are not a message that /inference.GRPCInferenceService/ModelStreamInfer takes")


def test_reflections_stream_refuses_them_too(live: LiveServer) -> None:
    talk = Conversation(
        live.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"), b"\xff"
    )
    assert talk.end()[0] is INVALID


def test_a_client_of_triton_may_ask_for_the_status_of_the_first_failure(live: LiveServer) -> None:
    unknown = gather(1)
    unknown.model_name = "nobody"
    talk = opened(live, gather(1), unknown, gather(2), metadata=[("triton_grpc_error", "true")])
    assert value_of(talk.receive()) == 10
    assert talk.end()[0] is grpc.StatusCode.NOT_FOUND


def test_streams_end_with_their_threads(live: LiveServer) -> None:
    talks = [opened(live, gather(1)) for _ in range(5)]
    for talk in talks:
        talk.receive()
    readers = [thread for thread in threading.enumerate() if thread.name == "stream"]
    assert len(readers) >= 5
    for talk in talks:
        talk.call.cancel()
    for reader in readers:
        reader.join(TIMEOUT)
        assert not reader.is_alive()
    assert failure(lambda: live.infer(gather(99)))[0] is grpc.StatusCode.INTERNAL
    assert live.infer(gather(3))["value"].tolist() == [30]
