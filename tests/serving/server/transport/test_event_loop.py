"""Slow work, such as decoding a picture, parsing a large message or changing the models, does not delay other calls.

One event loop serves all calls of a process over the transport grpc and over HTTP."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import structlog.testing
from onnx import TensorProto, helper

from hangtag.protos import classifier_pb2
from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.model_control import ModelControl
from hangtag.serving.server.errors import InvalidRequestError
from hangtag.serving.server.wire.event_loop import AwaitedCall, LoopCalls
from hangtag.serving.server.wire.image_query import classify_query
from hangtag.serving.server.wire.intake import Intake, Origin
from hangtag.serving.server.wire.transport_call import Query, submit_on_thread
from studies.stubs import InferenceStub
from tests.kit import onnx_models
from tests.kit.gate import Gates
from tests.kit.live import LiveServer, failure, index, outputs, request
from tests.kit.over_http import live_server
from tests.kit.picture_files import encoded
from tests.kit.waiting import TIMEOUT, until

STRINGS = 300_000
"""This many texts take half a second to decode, and longer to encode."""
FULL = "the queue of pictures and large messages to be decoded is full"
PLACES, BEYOND = 4, 10
UNKNOWN = classifier_pb2.ClassifyRequest(model_name="nobody")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which ``first`` answers with the first text of a row, and ``many`` repeats a text many times."""
    models = tmp_path_factory.mktemp("models")
    onnx_models.publish_all(models, "gather", "classifier")
    first = helper.make_node("Slice", ["text", "begin", "end", "axis"], ["first"])
    constants = {"begin": np.array([0]), "end": np.array([1]), "axis": np.array([1])}
    text = TensorProto.STRING
    rows: dict[str, tuple[int, list[int | str]]] = {"text": (text, ["batch", "length"])}
    onnx_models.publish(models, "first", onnx_models.model([first], rows, {"first": (text, ["batch", 1])}, constants))
    many = helper.make_node("Expand", ["text", "shape"], ["many"])
    of_many = onnx_models.model(
        [many], {"text": (text, ["batch", 1])}, {"many": (text, ["batch", STRINGS])}, {"shape": np.array([1, STRINGS])}
    )
    onnx_models.publish(models, "many", of_many)
    (models / "first" / "serving.toml").write_text("max_queue_size = 1000")
    return models


@pytest.fixture(scope="module")
def server(models: Path, transport: str) -> Iterator[LiveServer]:
    settings: dict[str, Any] = {"max_batch_size": 4, "max_queue_size": 100, "instances": 1}
    with live_server(transport, models, **settings) as live:
        yield live


@cache
def striped() -> bytes:
    """A PNG file of a third of a megabyte, whose 49 million pixels take half a second to decode."""
    pixels = np.zeros((7000, 7000), np.uint8)
    pixels[::3], pixels[:, ::7] = 200, 90
    return encoded(pixels, compress_level=1)


@cache
def texts(count: int = STRINGS) -> pb.ModelInferRequest:
    return request("first", text=np.array([["x"] * count], np.object_))


@pytest.mark.parametrize("kind", ["picture", "comparison", "texts", "answer"])
def test_others_are_answered_while_a_call_is_decoded_or_encoded(server: LiveServer, kind: str) -> None:
    picture, large = striped(), texts()
    choices = [classifier_pb2.ModelChoice(name="classifier")]
    calls: dict[str, Callable[[], Any]] = {
        "picture": lambda: server.classifier.Classify(
            classifier_pb2.ClassifyRequest(model_name="classifier", encoded=picture), timeout=TIMEOUT
        ),
        "comparison": lambda: server.classifier.Compare(
            classifier_pb2.CompareRequest(models=choices, encoded=picture), timeout=TIMEOUT
        ),
        "texts": lambda: server.inference.ModelInfer(large, timeout=TIMEOUT),
        "answer": lambda: server.inference.ModelInfer(
            request("many", text=np.array([["x"]], np.object_)), timeout=TIMEOUT
        ),
    }
    with futures.ThreadPoolExecutor() as pool, server.caller() as infer:
        infer(request("gather", index=index(1)))
        times = [time.monotonic()]
        slow = pool.submit(calls[kind])
        while not slow.done():
            assert outputs(infer(request("gather", index=index(1))))["value"].tolist() == [10]
            times.append(time.monotonic())
        assert slow.result()
    assert max(np.diff(times)) < (times[-1] - times[0]) / 2


class HeldControl:
    """Wraps the server's ModelControl. One of its methods waits until a test lets it continue."""

    def __init__(self, method: str) -> None:
        self.begun, self.may_go_on = threading.Event(), threading.Event()
        self._method = method

    def __call__(self, control: Any) -> "HeldControl":
        self._control = control
        return self

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._control, name)

        def held(*arguments: Any) -> Any:
            self.begun.set()
            assert self.may_go_on.wait(TIMEOUT)
            return method(*arguments)

        return held if name == self._method else method


@pytest.mark.parametrize(
    ("method", "call", "message"),
    [
        ("state", "ModelStatistics", pb.ModelStatisticsRequest()),
        ("published", "RepositoryIndex", pb.RepositoryIndexRequest()),
        ("load", "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="gather")),
        ("unload", "RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="classifier")),
    ],
)
def test_others_are_answered_while_the_control_of_the_models_takes_long(
    few: Path, transport: str, method: str, call: str, message: Any
) -> None:
    control = HeldControl(method)
    explicit: dict[str, Any] = {"model_control": "explicit", "load_model": ("*",)}
    with live_server(transport, few, wrap_control=control, **explicit) as live:
        slow = getattr(live.inference, call).future(message, timeout=TIMEOUT)
        try:
            assert control.begun.wait(TIMEOUT)
            assert live.ready()
            assert live.infer(request("gather", index=index(1)))["value"].tolist() == [10]
            assert not slow.done()
        finally:
            control.may_go_on.set()
        assert slow.result(timeout=TIMEOUT) is not None


def test_large_messages_without_a_place_are_refused_at_once_and_all_others_answered(
    models: Path, transport: str
) -> None:
    """Only a few threads decode, and only PLACES messages may wait for them. The model's own queue is long enough."""
    settings: dict[str, Any] = {"max_batch_size": 4, "max_queue_size": PLACES, "max_concurrent_streams": 1000}
    with live_server(transport, models, instances=1, **settings) as live:
        count = len(os.sched_getaffinity(0)) + PLACES + BEYOND
        calls = [live.begin(texts(STRINGS // 2)) for _ in range(count)]
        until(lambda: any(call.done() for call in calls))
        assert not all(call.done() for call in calls)  # the server refuses one at once, before it answers the others
        refused = [error for call in calls if (error := call.exception()) is not None]
        assert {(error.code(), error.details()[: len(FULL)]) for error in refused} == {
            (grpc.StatusCode.RESOURCE_EXHAUSTED, FULL)
        }
        assert len(calls) - len(refused) >= PLACES
        for _ in range(2 * PLACES):  # every message that was answered or refused has left the queue
            assert live.infer(texts(STRINGS // 20))["first"].tolist() == [[b"x"]]


class BrokenCall(AwaitedCall):
    """A call whose transport raises an exception when the call fails."""

    def refuse(self, error: Exception) -> None:
        raise RuntimeError(f"the transport's own, after {error}")


def unreadable() -> Query:
    raise InvalidRequestError("the request cannot be read")


@pytest.mark.parametrize("read", [unreadable, lambda: classify_query(UNKNOWN)], ids=["unreadable", "unknown model"])
def test_a_call_whose_transport_raises_leaves_no_stream_waiting(few: Path, read: Callable[[], Query]) -> None:
    """A stream reads its next request only when the future of the previous request is done."""
    engine = Engine(ServerConfig(models=few))
    with closing(engine), closing(Intake(engine, ModelControl(engine, {}, Gates()))) as intake:
        call = BrokenCall(LoopCalls(intake), Origin(""))
        submit_on_thread([call], [read]).result(TIMEOUT)


def test_a_program_may_use_grpc_aio_on_a_loop_of_its_own(few: Path) -> None:
    async def ask(address: str) -> list[float]:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # older versions of grpcio report an error
        async with grpc.aio.insecure_channel(address) as channel:
            stub = InferenceStub(channel)
            calls = [stub.ModelInfer(request("gather", index=index(value)), timeout=TIMEOUT) for value in (1, 2, 3)]
            return [outputs(await call)["value"].item() for call in calls]

    with live_server("grpc", few) as live, structlog.testing.capture_logs() as logs:
        for _ in range(3):
            assert asyncio.run(ask(live.server.address)) == [10, 20, 30]
    assert [line for line in logs if line["log_level"] != "info"] == []


def test_grpcios_own_errors_are_lines_of_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without the server's log handler, grpcio would write a traceback for an answer that a long id makes too large."""
    onnx_models.publish(tmp_path, "tiled", onnx_models.tiled(250_000))  # the answer to a 4-byte input has 1 MB
    sent = request("tiled", x=np.ones((1, 1), np.float32))
    sent.id = "i" * 100_000
    with (
        live_server("grpc", tmp_path, max_message_mib=1, max_batch_size=2) as live,
        structlog.testing.capture_logs() as logs,
    ):
        code, message = failure(lambda: live.infer(sent))
        until(lambda: any(line["log_level"] == "error" for line in logs))  # logged after the call has ended
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert message.startswith("SERVER: Sent message larger than max")
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["grpc._cython.cygrpc"]
    assert "Traceback" not in capfd.readouterr().err
