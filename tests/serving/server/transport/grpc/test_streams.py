"""ModelStreamInfer: answers in order, failures in their place, and what a stream shares batches with."""

from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hangtag.protos import inference_pb2 as pb
from tests.kit.conversation import Conversation, gather, occupied, opened, value_of
from tests.kit.live import LiveServer, index, outputs, request
from tests.kit.waiting import TIMEOUT
from tests.serving.server.fuzz.requests import anything

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def test_an_answer_comes_before_the_next_request_and_says_what_it_cost(live: LiveServer) -> None:
    talk = opened(live)
    for value in (3, 1, 2):
        talk.send(gather(value))
        answer = talk.receive()
        assert value_of(answer) == 10 * value
        parameters = answer.infer_response.parameters
        assert parameters["batch_size"].int64_param == 1
        assert parameters["compute_ns"].int64_param > 0
        assert parameters["queue_ns"].int64_param >= 0
    assert talk.finish() == []
    assert talk.call.code() is grpc.StatusCode.OK
    assert opened(live).finish() == []  # it had no request


def test_a_failure_is_answered_in_its_place_and_the_stream_goes_on(live: LiveServer) -> None:
    unknown, wrong, full = gather(1, "a"), gather(1, "b"), request("gather", index=index(*range(17)))
    unknown.model_name, wrong.inputs[0].name, full.id = "nobody", "place", "c"
    talk = opened(live, gather(1), unknown, gather(2), wrong, full)
    answers = [talk.receive() for _ in range(5)]
    talk.send(gather(99, "d"))
    answers.append(talk.receive())
    talk.send(gather(3))
    answers += talk.finish()
    assert [value_of(answers[place]) for place in (0, 2, 6)] == [10, 20, 30]
    for place, name, status, message in (
        (1, "a", "NOT_FOUND", "no model 'nobody' is served"),
        (3, "b", "INVALID_ARGUMENT", "unknown input 'place'"),
        (4, "c", "INVALID_ARGUMENT", "17 samples in one request"),
        (5, "d", "INVALID_ARGUMENT", "ONNX Runtime refuses the values"),
    ):
        failed = answers[place].infer_response
        assert (failed.id, failed.parameters["status"].string_param) == (name, status)
        assert answers[place].error_message.startswith(message)
        assert not failed.outputs


def test_requests_of_one_stream_share_batches_with_each_other_and_with_calls(own: LiveServer) -> None:
    with own.gates.closed("gather") as gate:
        computing = occupied(own, gate)
        talk = opened(own, gather(1), gather(2), gather(3))
        own.wait_until_queued("gather", 3)
        alone = own.inference.ModelInfer.future(request("gather", index=index(2)), timeout=TIMEOUT)
        own.wait_until_queued("gather", 4)
        gate.open()
        assert [value_of(answer) for answer in talk.finish()] == [10, 20, 30]
        assert outputs(alone.result())["value"].item() == 20
        assert outputs(computing.result())["value"].item() == 0
        assert gate.batch_sizes == [1, 4]


def test_undecodable_bytes_end_the_stream_after_the_answers_before_them(live: LiveServer) -> None:
    method: Any = live.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    talk = Conversation(method, gather(1).SerializeToString(), b"\xff\xff\xff")
    assert value_of(pb.ModelStreamInferResponse.FromString(talk.receive())) == 10
    code, message = talk.end()
    assert code is INVALID
    assert message.startswith("the bytes are not a message that /inference.GRPCInferenceService/ModelStreamInfer takes")


def test_tritons_clients_can_request_that_the_first_error_ends_the_stream(live: LiveServer) -> None:
    unknown = gather(1)
    unknown.model_name = "nobody"
    talk = opened(live, gather(1), unknown, gather(2), metadata=[("triton_grpc_error", "true")])
    assert value_of(talk.receive()) == 10
    assert talk.end()[0] is grpc.StatusCode.NOT_FOUND


ANSWERS = {
    "slow": (gather(3), 30),
    "quick": (request("free_axis", x=np.full((1, 3), 2, np.float32)), 6),
    "failing": (gather(99), None),
    "unknown": (request("nobody", x=index(1)), None),
}
"""Requests by what becomes of them, and what the good ones are answered."""
GOOD_OR_BAD = st.sampled_from(sorted(ANSWERS)).map(lambda fate: ANSWERS[fate]) | st.tuples(anything, st.just(...))


@pytest.mark.slow
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(GOOD_OR_BAD, max_size=30))
def test_every_request_is_answered_once_in_its_place(
    own_whole: LiveServer, drawn: list[tuple[pb.ModelInferRequest, Any]]
) -> None:
    """Though the model of some takes longer than that of others, and however wrong a request is."""
    own_whole.gates.counted("gather").delay = 0.002
    sent = []
    for place, (one, _) in enumerate(drawn):
        sent.append(pb.ModelInferRequest())
        sent[-1].CopyFrom(one)
        sent[-1].id = str(place)
    answers = Conversation(own_whole.inference.ModelStreamInfer, *sent).finish()
    assert [answer.infer_response.id for answer in answers] == [str(place) for place in range(len(sent))]
    for answer, (_, expected) in zip(answers, drawn, strict=True):
        status = answer.infer_response.parameters["status"].string_param
        assert status in ("INVALID_ARGUMENT", "NOT_FOUND") if answer.error_message else status == ""
        assert answer.infer_response.parameters["triton_final_response"].bool_param
        if expected is not ...:
            values = [array.item() for array in outputs(answer.infer_response).values()]
            assert values == ([] if expected is None else [expected])
