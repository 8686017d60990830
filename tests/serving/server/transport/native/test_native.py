"""What only the native transport could get wrong: receiving while every thread computes, and what it trusts."""

import dataclasses
import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import structlog

from hangtag.protos import classifier_pb2, inference_pb2_grpc
from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.classification import image_preprocessing as images
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.transport import codec
from hangtag.serving.server.transport.native.server import NativeServer
from hangtag.serving.server.transport.native.unary_calls import METHODS
from hangtag.serving.server.transport.queries.infer_message import InferMessageQuery
from hangtag.serving.server.transport.submission import LARGE_MESSAGE
from hangtag.serving.signature import Signature
from tests.kit import onnx_models
from tests.kit.live import TIMEOUT, Gate, LiveServer, failure, index, number, outputs, request

TOKEN = "a-secret-of-enough-characters"
PICTURE = Path(__file__).parents[5] / "examples/garments/dress-1.png"


def send(live: LiveServer, value: int) -> Any:
    return live.inference.ModelInfer.future(request("gather", index=index(value)), timeout=TIMEOUT)


def occupy_both(live: LiveServer, gate: Gate) -> list[Any]:
    """Two calls, of 1 and 2, each of which one of the two threads is computing."""
    calls = []
    for value in (1, 2):
        calls.append(send(live, value))
        gate.wait_until_computing()
    return calls


def test_while_every_thread_computes_others_are_still_answered(native: LiveServer) -> None:
    with native.gate("gather") as gate:
        calls = occupy_both(native, gate)
        for length in (1, 2):  # twice: the stand-by sweeps, gives way, and sweeps again
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


def test_pictures_beyond_the_queues_size_are_refused_and_one_that_nobody_waits_for_is_not_computed(
    native: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, finish = threading.Semaphore(0), threading.Semaphore(0)
    decode = images.preprocess

    def slowly(*arguments: Any, **options: Any) -> Any:
        begun.release()
        assert finish.acquire(timeout=TIMEOUT)
        return decode(*arguments, **options)

    monkeypatch.setattr(images, "preprocess", slowly)
    picture = classifier_pb2.ClassifyRequest(model_name="lstm", encoded=PICTURE.read_bytes())
    transport = native.server._transport
    assert isinstance(transport, NativeServer)
    try:
        calls = [native.classifier.Classify.future(picture, timeout=TIMEOUT) for _ in range(8)]
        for _ in range(2):  # two are decoded, so the queue has room for two more
            assert begun.acquire(timeout=TIMEOUT)
        calls += [native.classifier.Classify.future(picture, timeout=TIMEOUT) for _ in range(2)]
        while len(transport._calls.open) < 10:  # calls of one client may overtake each other
            threading.Event().wait(0.001)
        code, message = failure(lambda: native.classifier.Classify(picture, timeout=TIMEOUT))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert message.startswith("as many pictures and large messages wait to be decoded as the queue holds")
        calls.pop().cancel()
        while not any(call.left for call in list(transport._calls.open.values())):
            threading.Event().wait(0.001)
        for open_calls in reversed(range(10)):  # one by one, so that the model's queue never fills
            finish.release()
            while len(transport._calls.open) > open_calls:
                threading.Event().wait(0.001)
    finally:
        finish.release(20)
    assert all(len(call.result().labels) == 3 for call in calls)
    assert native.statistics("lstm").inference_count == 9


def test_a_large_message_that_is_being_decoded_holds_up_no_call(
    native: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, finish = threading.Event(), threading.Event()
    decode = codec.decode_inputs

    def slowly(request: pb.ModelInferRequest, signature: Signature) -> Any:
        if len(request.raw_input_contents[0]) > LARGE_MESSAGE:
            begun.set()
            assert finish.wait(TIMEOUT)
        return decode(request, signature)

    monkeypatch.setattr(codec, "decode_inputs", slowly)
    row = np.ones((1, LARGE_MESSAGE), np.float32)
    large = native.inference.ModelInfer.future(request("free_axis", x=row), timeout=TIMEOUT)
    try:
        assert begun.wait(TIMEOUT)
        for value in (1, 2, 3):
            assert native.infer(request("gather", index=index(value)))["value"].tolist() == [10 * value]
    finally:
        finish.set()
    assert outputs(large.result())["total"].item() == LARGE_MESSAGE


def test_what_waits_while_every_thread_computes_can_be_cancelled(native: LiveServer) -> None:
    with native.gate("gather") as gate:
        calls = occupy_both(native, gate)
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


def test_a_model_with_more_instances_than_the_server_has_a_thread_for_each(tmp_path: Path) -> None:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    (tmp_path / "gather" / "serving.toml").write_text("instances = 4\nmax_batch_size = 1\n")
    config = ServerConfig(models=tmp_path, port=0, http_port=-1, instances=1, transport="native")
    with LiveServer(config) as live, live.gate("gather") as gate:
        threads: set[str] = set()
        execute = live.model("gather").execute

        def noting(batch: Any) -> None:
            threads.add(threading.current_thread().name)
            execute(batch)

        live.model("gather").execute = noting  # type: ignore[method-assign]
        calls = [send(live, value) for value in range(4)]
        for _ in calls:
            gate.wait_until_computing()
        assert threads == {f"native-{number}" for number in range(4)}
        gate.open()
        assert [outputs(call.result())["value"].item() for call in calls] == [0, 10, 20, 30]


def test_while_every_thread_computes_a_full_queue_refuses_at_once(native: LiveServer) -> None:
    with native.gate("gather") as gate:
        calls = occupy_both(native, gate)
        calls += [send(native, 3) for _ in range(8)]
        gate.wait_until_queued(10)
        refused = [send(native, 1) for _ in range(100)]
        assert {call.exception(TIMEOUT).code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        gate.open()
        assert [outputs(call.result())["value"].item() for call in calls] == [10, 20, *[30] * 8]


def test_a_token_is_asked_for_before_the_message_is_parsed(
    config: ServerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokens").write_text(f"{TOKEN}\n")
    parsed: list[bytes] = []
    init = InferMessageQuery.__init__

    def noting(query: InferMessageQuery, message: bytes, *arguments: Any) -> None:
        parsed.append(message)
        init(query, message, *arguments)

    monkeypatch.setattr(InferMessageQuery, "__init__", noting)
    with LiveServer(dataclasses.replace(config, token_file=tmp_path / "tokens")) as live:
        for method in METHODS:
            call: Any = live.channel.unary_unary(method)
            code, _ = failure(lambda call=call: call(b"\xff no message", timeout=TIMEOUT))  # type: ignore[misc]
            assert code is grpc.StatusCode.UNAUTHENTICATED
        assert parsed == []
        token = (("authorization", f"Bearer {TOKEN}"),)
        answer = live.inference.ModelInfer(request("gather", index=index(1)), timeout=TIMEOUT, metadata=token)
        assert outputs(answer)["value"].tolist() == [10]
        assert len(parsed) == 1


def test_each_call_of_a_batch_gets_its_own_answer(native: LiveServer) -> None:
    with native.gate("gather") as gate:
        calls = [send(native, 0)]
        gate.wait_until_computing()
        calls.append(send(native, 0))
        gate.wait_until_computing()
        calls += [send(native, value % 4) for value in range(8)]
        gate.wait_until_queued(10)
        gate.open()
        assert [outputs(call.result())["value"].item() for call in calls] == [0, 0, *[0, 10, 20, 30] * 2]
        assert sorted(gate.batch_sizes) == [1, 1, 4, 4]


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
