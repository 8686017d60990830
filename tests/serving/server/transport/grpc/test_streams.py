"""ModelStreamInfer: answers in order, failures in their place, and what a stream shares batches with."""

from typing import Any

import grpc
import numpy as np

from hangtag.protos import inference_pb2 as pb
from tests.kit.conversation import Conversation, gather, occupied, opened, value_of
from tests.kit.live import TIMEOUT, LiveServer, failure, index, number, outputs, request

INVALID = grpc.StatusCode.INVALID_ARGUMENT


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


def test_an_empty_stream_ends_with_ok(live: LiveServer) -> None:
    assert opened(live).finish() == []


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
    failed = [answers[place] for place in (1, 3, 4, 5)]
    statuses = [(one.infer_response.id, one.infer_response.parameters["status"].string_param) for one in failed]
    assert statuses == [
        ("a", "NOT_FOUND"),
        ("b", "INVALID_ARGUMENT"),
        ("c", "INVALID_ARGUMENT"),
        ("d", "INVALID_ARGUMENT"),
    ]
    for one, message in zip(
        failed,
        [
            "no model 'nobody' is served",
            "unknown input 'place'",
            "17 samples in one request",
            "ONNX Runtime refuses the values",
        ],
        strict=True,
    ):
        assert one.error_message.startswith(message)
        assert not one.infer_response.outputs
        assert one.infer_response.parameters["triton_final_response"].bool_param


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


def test_a_quick_answer_waits_for_the_slow_one_before_it(own: LiveServer) -> None:
    with own.gates.closed("gather") as gate:
        open_gate = own.gates.counted("free_axis")
        talk = opened(own, gather(1, "slow"), request("free_axis", x=number(7)))
        gate.wait_until_computing()
        open_gate.wait_until_computing()
        gate.open()
        slow, quick = talk.finish()
        assert slow.infer_response.id == "slow"
        assert outputs(quick.infer_response)["total"].tolist() == [[7]]


def test_undecodable_bytes_end_the_stream_after_the_answers_before_them(live: LiveServer) -> None:
    method: Any = live.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    talk = Conversation(method, gather(1).SerializeToString(), b"\xff\xff\xff")
    assert value_of(pb.ModelStreamInferResponse.FromString(talk.receive())) == 10
    code, message = talk.end()
    assert code is INVALID
    assert message.startswith("the bytes are not a message that /inference.GRPCInferenceService/ModelStreamInfer takes")


def test_reflection_refuses_undecodable_bytes(live: LiveServer) -> None:
    talk = Conversation(
        live.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"), b"\xff"
    )
    assert talk.end()[0] is INVALID


def test_a_watch_refuses_undecodable_bytes(live: LiveServer) -> None:
    method: Any = live.channel.unary_stream("/grpc.health.v1.Health/Watch")
    code, message = failure(lambda: list(method(b"\xff", timeout=TIMEOUT)))
    assert code is INVALID
    assert message.startswith("the bytes are not a message that /grpc.health.v1.Health/Watch takes")


def test_tritons_clients_can_request_that_the_first_error_ends_the_stream(live: LiveServer) -> None:
    unknown = gather(1)
    unknown.model_name = "nobody"
    talk = opened(live, gather(1), unknown, gather(2), metadata=[("triton_grpc_error", "true")])
    assert value_of(talk.receive()) == 10
    assert talk.end()[0] is grpc.StatusCode.NOT_FOUND
