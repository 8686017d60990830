"""A stream answers every request once and in order, whatever the requests are and in whatever order they complete."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator

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
from tests.kit.conversation import Conversation
from tests.kit.live import LiveServer
from tests.serving.server.fuzz.requests import anything

pytestmark = pytest.mark.slow

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
