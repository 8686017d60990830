"""ModelStreamInfer: answers in order, failures in their place, and what a stream shares batches with."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.batching.request import InferenceResult
from hangtag.serving.server.errors import InferenceError, QueueFullError
from hangtag.serving.server.telemetry.model_statistics import Timings
from hangtag.serving.server.transport.event_loop import run
from hangtag.serving.server.transport.grpc.streams.ordered_stream import OrderedStream
from hangtag.serving.server.transport.queries.pending import HandOver, PendingQuery
from hangtag.serving.server.transport.submission import Answered, Failed, Outcome, Reply
from tests.kit.conversation import Conversation, gather, occupied, opened, value_of
from tests.kit.live import LiveServer, failure, index, number, outputs, request
from tests.kit.waiting import TIMEOUT
from tests.serving.server.fuzz.requests import anything

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


RESULT = InferenceResult({}, Timings(0, 0, 0, 0, 1))
FATES = st.sampled_from(["at once", "later", "fails", "refused", "unreadable"])


class Model:
    """Completes the queries that wait in a random order, from a thread of its own."""

    def __init__(self, fates: list[str], seed: int) -> None:
        self._fates = fates
        self._random = random.Random(seed)
        self._waiting: list[tuple[Outcome[str], Reply[str]]] = []
        self._changed = threading.Condition()
        self.most_waiting = 0

    def submit(self, request: pb.ModelInferRequest, reply: Reply[str]) -> None:
        def encode(_result: InferenceResult) -> str:
            if fate == "unreadable":
                raise InferenceError(request.id)
            return request.id

        fate = self._fates[int(request.id)]
        if fate == "refused":
            reply(Failed(QueueFullError(request.id)))
        elif fate == "at once":
            reply(Answered(RESULT, encode, is_large=False))
        else:
            outcome = (
                Failed(InferenceError(request.id)) if fate == "fails" else Answered(RESULT, encode, is_large=False)
            )
            with self._changed:
                self._waiting.append((outcome, reply))
                self.most_waiting = max(self.most_waiting, len(self._waiting))
                self._changed.notify()

    def complete(self, count: int) -> None:
        for _ in range(count):
            with self._changed:
                assert self._changed.wait_for(lambda: self._waiting, 30)
                outcome, reply = self._waiting.pop(self._random.randrange(len(self._waiting)))
            reply(outcome)


def described(outcome: Outcome[str]) -> tuple[str, str]:
    try:
        return outcome.response(), "answered"
    except Exception as error:
        return str(error), type(error).__name__


async def conversation(model: Model, sent: list[pb.ModelInferRequest], window: int) -> list[tuple[str, str]]:
    loop = asyncio.get_running_loop()
    hand_over = HandOver(loop)
    stream: OrderedStream[pb.ModelInferRequest, str] = OrderedStream(
        window, 1_000_000, lambda: PendingQuery(loop, hand_over)
    )

    async def requests() -> AsyncIterator[pb.ModelInferRequest]:
        for one in sent:
            yield one

    async def submit(request: pb.ModelInferRequest, _size: int, query: PendingQuery[str]) -> None:
        model.submit(request, query)

    reader = asyncio.create_task(stream.read(requests(), submit))
    answers = [described(outcome) async for _request, _size, outcome in stream.outcomes()]
    await reader
    return answers


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(FATES, max_size=30), st.integers(1, 6), st.integers(0, 2**32))
def test_every_request_is_answered_once_in_its_place(fates: list[str], window: int, seed: int) -> None:
    model = Model(fates, seed)
    sent = [pb.ModelInferRequest(id=str(place)) for place in range(len(fates))]
    later = sum(fate not in ("at once", "refused") for fate in fates)
    completing = threading.Thread(target=model.complete, args=(later,))
    completing.start()
    answers = run(conversation(model, sent, window))
    completing.join(30)
    errors = {"refused": "QueueFullError", "fails": "InferenceError", "unreadable": "InferenceError"}
    assert answers == [(str(place), errors.get(fate, "answered")) for place, fate in enumerate(fates)]
    assert model.most_waiting <= window


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(anything, max_size=6))
def test_no_bad_request_in_a_stream_is_a_bug_of_ours(live: LiveServer, sent: list[pb.ModelInferRequest]) -> None:
    for place, one in enumerate(sent):
        one.id = str(place)
    answers = Conversation(live.inference.ModelStreamInfer, *sent).finish()
    assert [answer.infer_response.id for answer in answers] == [str(place) for place in range(len(sent))]
    for answer in answers:
        status = answer.infer_response.parameters["status"].string_param
        assert status in ("INVALID_ARGUMENT", "NOT_FOUND") if answer.error_message else status == ""
