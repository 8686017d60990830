"""Whatever a stream's requests are, in whatever order they are answered: every one is told, once, in its place."""

import random
import threading
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.batching.request import InferenceResult, OnComplete
from hangtag.serving.server.errors import InferenceError, QueueFullError
from hangtag.serving.server.telemetry.model_statistics import Timings
from hangtag.serving.server.transport.grpc.streams.ordered import _Stream
from hangtag.serving.server.transport.submission import Asked
from tests.serving.server.fuzz.requests import anything
from tests.serving.server.transport.grpc.streams.conversation import Conversation
from tests.serving.server.transport.live import LiveServer

TIMINGS = Timings(0, 0, 0, 0, 1)
FATES = st.sampled_from(["at once", "later", "fails", "refused", "unreadable"])


class Model:
    """Answers what is waiting in an order of its own, from a thread of its own."""

    def __init__(self, fates: list[str], seed: int) -> None:
        self._fates = fates
        self._random = random.Random(seed)
        self._waiting: list[tuple[str, OnComplete]] = []
        self._changed = threading.Condition()
        self.most_waiting = 0

    def ask(self, request: pb.ModelInferRequest, on_complete: OnComplete, _deadline: float | None) -> Asked[str]:
        fate = self._fates[int(request.id)]
        if fate == "refused":
            raise QueueFullError(request.id)
        if fate == "at once":
            on_complete(InferenceResult({}, TIMINGS))
        else:
            with self._changed:
                self._waiting.append((request.id if fate == "fails" else "", on_complete))
                self.most_waiting = max(self.most_waiting, len(self._waiting))
                self._changed.notify()

        def read(_answer: InferenceResult) -> str:
            if fate == "unreadable":
                raise InferenceError(request.id)
            return request.id

        return Asked(lambda: None, read)

    def answer(self, count: int) -> None:
        for _ in range(count):
            with self._changed:
                assert self._changed.wait_for(lambda: self._waiting, 30)
                failing, on_complete = self._waiting.pop(self._random.randrange(len(self._waiting)))
            on_complete(InferenceError(failing) if failing else InferenceResult({}, TIMINGS))


def told(place: Any) -> tuple[str, str]:
    response = place.response()
    if isinstance(response, Exception):
        return str(response), type(response).__name__
    return response, "answered"


@settings(max_examples=200, deadline=None)
@given(st.lists(FATES, max_size=30), st.integers(1, 6), st.integers(0, 2**32))
def test_every_request_is_told_once_in_its_place(fates: list[str], window: int, seed: int) -> None:
    model = Model(fates, seed)
    stream = _Stream(window, 1_000_000)
    sent = iter([pb.ModelInferRequest(id=str(place)) for place in range(len(fates))])
    threads = [
        threading.Thread(target=stream.read, args=(sent, model.ask, None)),
        threading.Thread(target=model.answer, args=(sum(fate not in ("at once", "refused") for fate in fates),)),
    ]
    for thread in threads:
        thread.start()
    answers = [told(place) for place in stream.places()]
    for thread in threads:
        thread.join(30)
    outcomes = {"refused": "QueueFullError", "fails": "InferenceError", "unreadable": "InferenceError"}
    assert answers == [(str(place), outcomes.get(fate, "answered")) for place, fate in enumerate(fates)]
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
