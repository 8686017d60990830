"""Pictures and large messages wait for a thread that decodes them: no more of them than the queue holds."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hangtag.protos import classifier_pb2 as pb
from hangtag.serving.server.classification import image_preprocessing as images
from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.host.cpus import usable_cpus
from hangtag.serving.server.transport.submission import LARGE_MESSAGE
from tests.kit import onnx_models
from tests.kit.live import TIMEOUT, LiveServer, failure, outputs, request
from tests.kit.over_http import EVERY_TRANSPORT, live_server
from tests.kit.waiting import until
from tests.serving.server.transport.grpc.streams.conversation import Conversation, readers, wait_until_ended

pytestmark = pytest.mark.slow

PLACES, BEYOND = 4, 10
PICTURE = (Path(__file__).parents[4] / "examples/garments/dress-1.png").read_bytes()
ONE = pb.ClassifyRequest(model_name="classifier", encoded=PICTURE)
FULL = "as many pictures and large messages wait to be decoded as the queue holds"


class Held:
    """A function that waits until it may go on, and signals each call of it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.calls: list[None] = []  # one element a call: append is atomic, += is not
        self._function = function
        self._begun = threading.Semaphore(0)
        self._opened = threading.Event()

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls.append(None)
        self._begun.release()
        assert self._opened.wait(TIMEOUT)
        return self._function(*arguments, **options)

    def open(self) -> None:
        self._opened.set()

    def wait_until_begun(self, count: int) -> None:
        assert all(self._begun.acquire(timeout=TIMEOUT) for _ in range(count))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Their own queues have room for every call of these tests."""
    for name in ("free_axis", "classifier"):
        onnx_models.publish(tmp_path, name, getattr(onnx_models, name)())
        (tmp_path / name / "serving.toml").write_text("max_queue_size = 1000")
    return tmp_path


def server(transport: str, models: Path, limits: Limits | None = None) -> LiveServer:
    return live_server(
        transport,
        models,
        max_batch_size=4,
        max_queue_size=PLACES,
        instances=1,
        max_concurrent_streams=1000,
        limits=limits or Limits(),
    )


@EVERY_TRANSPORT
def test_large_messages_without_a_place_are_refused_at_once_and_all_others_answered(
    models: Path, transport: str
) -> None:
    threads = 2 if transport == "native" else usable_cpus()
    row = np.ones((1, LARGE_MESSAGE), np.float32)
    with server(transport, models) as live:
        model = live.model("free_axis")
        held = Held(model.require_place)  # a thread asks for it when it begins
        model.require_place = held  # type: ignore[method-assign]

        def send(count: int) -> list[Any]:
            sent = request("free_axis", x=row)
            return [live.inference.ModelInfer.future(sent, timeout=TIMEOUT) for _ in range(count)]

        try:
            answered = send(threads)
            held.wait_until_begun(threads)
            calls = send(PLACES + BEYOND)
            until(lambda: sum(call.done() for call in calls) >= BEYOND)
            refused = [call for call in calls if call.done()]
            answered += [call for call in calls if call not in refused]
            for call in refused:
                assert call.exception().code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert call.exception().details().startswith(FULL)
        finally:
            held.open()
        assert len(answered) == threads + PLACES
        assert all(outputs(call.result())["total"].item() == LARGE_MESSAGE for call in answered)


def test_a_picture_whose_caller_left_keeps_its_place_until_a_thread_passes_it_over(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = usable_cpus()
    held = Held(images.preprocess)
    monkeypatch.setattr(images, "preprocess", held)
    with server("grpc", models) as live:
        classify = live.classifier.Classify

        def refused() -> bool:
            code, message = failure(lambda: classify(ONE, timeout=TIMEOUT))
            return code is grpc.StatusCode.RESOURCE_EXHAUSTED and message.startswith(FULL)

        try:
            decoded = [classify.future(ONE, timeout=TIMEOUT) for _ in range(threads)]
            held.wait_until_begun(threads)
            waiting = [classify.future(ONE, timeout=TIMEOUT) for _ in range(PLACES)]
            until(lambda: live.server._grpc._queries.open == threads + PLACES)
            assert refused()
            compared = pb.CompareRequest(models=[pb.ModelChoice(name="classifier")], encoded=PICTURE)
            code, _ = failure(lambda: live.classifier.Compare(compared, timeout=TIMEOUT))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            for call in waiting:
                call.cancel()
            until(lambda: live.server._grpc._queries.open == threads)
            assert refused()  # the places of those who left are free when a thread has passed over them
        finally:
            held.open()
        assert all(len(call.result().labels) == 3 for call in decoded)
        for _ in range(2 * PLACES):
            assert len(classify(ONE, timeout=TIMEOUT).labels) == 3
        assert len(held.calls) == threads + 2 * PLACES
        assert live.statistics("classifier").inference_stats.fail.count == 3 + PLACES


def test_a_stream_that_ended_counts_until_its_last_picture_is_passed_over(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = usable_cpus() + 1
    held = Held(images.preprocess)
    monkeypatch.setattr(images, "preprocess", held)
    with server("grpc", models, limits=Limits(max_streams=count)) as live:
        streams = live.server._grpc._streams
        try:
            talks = [Conversation(live.classifier.ClassifyStream, ONE) for _ in range(count)]
            held.wait_until_begun(usable_cpus())
            until(lambda: sum(len(stream._places) for stream in list(streams._streams)) == count)
            for talk in talks:
                talk.call.cancel()
            until(lambda: len(streams) == 0)
            code, _ = Conversation(live.classifier.ClassifyStream, ONE).end()
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        finally:
            held.open()
        wait_until_ended(readers(live.server))
        (answer,) = Conversation(live.classifier.ClassifyStream, ONE).finish()
        assert len(answer.answer.labels) == 3
        assert len(held.calls) == usable_cpus() + 1  # the picture that no thread had begun was passed over
