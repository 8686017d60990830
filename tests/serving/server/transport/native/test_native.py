"""What only the native transport could get wrong: receiving while every thread computes, and what it trusts."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import structlog

from hangtag.protos import classifier_pb2, inference_pb2_grpc
from hangtag.serving.server.classification import image_preprocessing as images
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.process.server import Server
from tests.serving.server.transport.live import TIMEOUT, Gate, LiveServer, failure, index, number, outputs, request

HOST = "localhost"
PICTURE = Path(__file__).parents[5] / "examples/garments/dress-1.png"


@pytest.fixture
def config(repository: Path) -> ServerConfig:
    return ServerConfig(models=repository, port=0, max_batch_size=4, max_queue_size=8, instances=2, transport="native")


@pytest.fixture
def native(config: ServerConfig) -> Iterator[LiveServer]:
    with LiveServer(config) as server:
        yield server


def send(live: LiveServer, value: int) -> Any:
    return live.inference.ModelInfer.future(request("gather", index=index(value)), timeout=TIMEOUT)


def test_while_every_thread_computes_others_are_still_answered(native: LiveServer) -> None:
    with native.gate("gather") as gate:
        calls = [send(native, 1)]
        gate.wait_until_computing()
        calls.append(send(native, 2))
        gate.wait_until_computing()
        for length in (1, 2):  # twice: the reserve thread leads, gives way, and leads again
            assert native.infer(request("free_axis", x=number(length)))["total"].tolist() == [[length]]
            assert native.statistics("gather").inference_count == 0
        raw = classifier_pb2.RawImage(height=28, width=28, pixels=bytes(784))
        answer = native.classifier.Classify(classifier_pb2.ClassifyRequest(model_name="lstm", raw=raw), timeout=TIMEOUT)
        assert len(answer.labels) == 3
        gate.open()
        assert [outputs(call.result())["value"].tolist() for call in calls] == [[10], [20]]
    assert native.infer(request("gather", index=index(3)))["value"].tolist() == [30]


def test_pictures_that_are_being_decoded_hold_up_no_call(native: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, finish = threading.Semaphore(0), threading.Event()
    decode = images.preprocess

    def slowly(*arguments: Any, **options: Any) -> Any:
        begun.release()
        assert finish.wait(TIMEOUT)
        return decode(*arguments, **options)

    monkeypatch.setattr(images, "preprocess", slowly)
    picture = classifier_pb2.ClassifyRequest(model_name="lstm", encoded=PICTURE.read_bytes())
    calls = [native.classifier.Classify.future(picture, timeout=TIMEOUT) for _ in range(8)]
    try:
        for _ in range(2):  # as many as decode at once
            assert begun.acquire(timeout=TIMEOUT)
        for value in (1, 2, 3):  # more than there are threads that receive calls
            assert native.infer(request("gather", index=index(value)))["value"].tolist() == [10 * value]
    finally:
        finish.set()
    assert all(len(call.result().labels) == 3 for call in calls)


def test_what_waits_while_every_thread_computes_can_be_cancelled(native: LiveServer) -> None:
    with native.gate("gather") as gate:
        calls = [send(native, 1)]
        gate.wait_until_computing()
        calls.append(send(native, 2))
        gate.wait_until_computing()
        gate.wait_until_queued(2)
        waiting = send(native, 3)
        gate.wait_until_queued()
        waiting.cancel()
        gate.wait_until_cancelled()
        gate.open()
        assert [outputs(call.result())["value"].tolist() for call in calls] == [[10], [20]]
    assert native.statistics("gather").inference_count == 2


def test_a_bug_of_ours_ends_one_call_with_a_reference_and_no_more(
    native: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    with structlog.testing.capture_logs() as logs:
        with monkeypatch.context() as patched:
            patched.setattr(ServedModel, "check", broken)
            code, message = failure(lambda: native.infer(request("gather", index=index(1, 2, 3))))
        assert code is grpc.StatusCode.INTERNAL
        assert native.infer(request("gather", index=index(1)))["value"].tolist() == [10]
    (line,) = [line for line in logs if line["log_level"] == "error"]
    assert line["reference"] in message


def test_another_version_that_takes_a_models_place_answers_from_then_on(native: LiveServer) -> None:
    assert native.infer(request("gather", index=index(1)))["value"].tolist() == [10]
    assert native.infer(request("gather", index=index(1)))["value"].tolist() == [10]
    engine = native.server._engine
    engine._table = engine._table | {"gather": engine._table["unbatched"]}
    code, message = failure(lambda: native.infer(request("gather", index=index(1))))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith("unknown input 'index'; the model takes x: FP32 [4]")


def test_many_servers_come_and_go(config: ServerConfig) -> None:
    before = threading.active_count()
    for _ in range(5):
        with LiveServer(config) as live:
            assert live.infer(request("gather", index=index(1)))["value"].tolist() == [10]
    assert threading.active_count() <= before + 2  # grpcio's own, which end by themselves


def test_callers_that_come_and_go_at_random_leave_a_server_that_answers(native: LiveServer) -> None:
    random = np.random.default_rng(5)
    channels = [native.connect() for _ in range(4)]
    methods = [inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer for channel in channels]
    answered = 0
    for _ in range(60):
        calls = [
            methods[random.integers(4)].future(
                request("gather", index=index(value)), timeout=random.choice([TIMEOUT, 0.001])
            )
            for value in random.integers(0, 4, 8)
        ]
        for call in random.permutation(np.array(calls, np.object_))[:3]:
            call.cancel()
        for call in calls:
            code = grpc.StatusCode.OK if not call.cancelled() and call.exception(TIMEOUT) is None else None
            answered += code is grpc.StatusCode.OK
    for channel in channels:
        channel.close()
    assert answered > 60
    assert native.infer(request("gather", index=index(3)))["value"].tolist() == [30]
    model = native.model("gather")
    assert (len(model.batcher), model.batcher.computing) == (0, 0)


def test_what_is_still_computed_when_the_time_to_drain_is_over_ends_in_peace(config: ServerConfig) -> None:
    server = Server(config)
    server.start()
    ended = threading.Event()

    def stop() -> None:
        server.stop(grace=0)
        ended.set()

    with grpc.insecure_channel(server.address) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        gate = Gate(server._engine.model("gather"))
        calls = [stub.ModelInfer.future(request("gather", index=index(1)), timeout=TIMEOUT)]
        gate.wait_until_computing()
        calls += [stub.ModelInfer.future(request("gather", index=index(2)), timeout=TIMEOUT) for _ in range(3)]
        gate.wait_until_computing()
        gate.wait_until_queued(4)
        stopping = threading.Thread(target=stop)
        stopping.start()
        assert all(call.exception(TIMEOUT) is not None for call in calls)  # cancelled, while the gate is closed
        assert not ended.is_set()
        gate.open()  # an answer to a call that is gone, on a queue that must still be there
        assert ended.wait(TIMEOUT)
        stopping.join()
