"""One event loop serves all calls of a process, and nothing that takes long holds it up."""

import asyncio
import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import structlog.testing
from PIL import Image

from hangtag.protos import classifier_pb2, inference_pb2_grpc
from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.classification import image_preprocessing
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.model_control import ModelControl
from hangtag.serving.server.errors import QueueFullError
from hangtag.serving.server.transport import codec
from hangtag.serving.server.transport.event_loop import event_loop, run
from hangtag.serving.server.transport.queries.pending import HandOver
from hangtag.serving.server.transport.submission import LARGE_MESSAGE, Failed
from tests.kit import onnx_models
from tests.kit.live import TIMEOUT, LiveServer, failure, index, number, outputs, request, status_of
from tests.serving.server.transport.test_message_size import repeated

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[LiveServer]:
    config = ServerConfig(
        models=repository, port=0, http_port=-1, model_control="explicit", load_model=("*",), transport="grpc"
    )
    with LiveServer(config) as live:
        yield live


def picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(file, "PNG")
    return file.getvalue()


CLASSIFY = classifier_pb2.ClassifyRequest(model_name="classifier", encoded=picture())
COMPARE = classifier_pb2.CompareRequest(models=[classifier_pb2.ModelChoice(name="classifier")], encoded=picture())
LARGE = request("text", text=np.array(["x" * LARGE_MESSAGE], np.object_))
LOAD = pb.RepositoryModelLoadRequest(model_name="gather")
UNLOAD = pb.RepositoryModelUnloadRequest(model_name="recurrent")


@pytest.mark.parametrize(
    ("owner", "blocking", "call"),
    [
        (image_preprocessing, "preprocess", lambda live: live.classifier.Classify(CLASSIFY)),
        (image_preprocessing, "preprocess", lambda live: list(live.classifier.ClassifyStream(iter([CLASSIFY])))),
        (image_preprocessing, "preprocess", lambda live: live.classifier.Compare(COMPARE)),
        (codec, "decode_inputs", lambda live: live.inference.ModelInfer(LARGE)),
        (codec, "decode_inputs", lambda live: list(live.inference.ModelStreamInfer(iter([LARGE])))),
        (codec, "encode_response", lambda live: live.inference.ModelInfer(LARGE)),
        (codec, "encode_response", lambda live: list(live.inference.ModelStreamInfer(iter([LARGE])))),
        (ModelControl, "state", lambda live: live.inference.ModelStatistics(pb.ModelStatisticsRequest())),
        (ModelControl, "published", lambda live: live.inference.RepositoryIndex(pb.RepositoryIndexRequest())),
        (ModelControl, "load", lambda live: live.inference.RepositoryModelLoad(LOAD)),
        (ModelControl, "unload", lambda live: live.inference.RepositoryModelUnload(UNLOAD)),
    ],
)
def test_others_are_answered_while_a_call_takes_long(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch, owner: Any, blocking: str, call: Callable[[LiveServer], Any]
) -> None:
    entered, may_end = threading.Event(), threading.Event()
    original = getattr(owner, blocking)

    def block(*arguments: Any, **options: Any) -> Any:
        entered.set()
        assert may_end.wait(TIMEOUT)
        return original(*arguments, **options)

    server.infer(request("gather", index=index(1)))  # its template is known, so it does not meet what blocks
    monkeypatch.setattr(owner, blocking, block)
    with futures.ThreadPoolExecutor() as pool:
        slow = pool.submit(call, server)
        try:
            assert entered.wait(TIMEOUT)
            assert status_of(server.health, "") == "SERVING"
            assert server.infer(request("gather", index=index(1)))["value"].tolist() == [10]
            assert not slow.done()
        finally:
            may_end.set()
        assert slow.result(TIMEOUT)


def test_servers_of_one_process_share_the_loop(server: LiveServer, tmp_path: Path) -> None:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    with LiveServer(ServerConfig(models=tmp_path, port=0, http_port=-1, transport="grpc")) as other:
        for live in (server, other):
            assert live.infer(request("gather", index=index(2)))["value"].tolist() == [20]
        assert [thread.name for thread in threading.enumerate()].count("grpc") == 1
    assert server.infer(request("gather", index=index(2)))["value"].tolist() == [20]


def test_a_program_may_use_grpc_aio_on_a_loop_of_its_own(server: LiveServer) -> None:
    async def ask() -> list[float]:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # older versions of grpcio report an error
        async with grpc.aio.insecure_channel(server.server.address) as channel:
            stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            calls = [stub.ModelInfer(request("gather", index=index(value)), timeout=TIMEOUT) for value in (1, 2, 3)]
            return [outputs(await call)["value"].item() for call in calls]

    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            assert asyncio.run(ask()) == [10, 20, 30]
    assert [line for line in logs if line["log_level"] != "info"] == []


def test_outcomes_that_gather_wake_the_loop_once() -> None:
    loop, wake_ups = event_loop(), []
    completed = threading.Event()

    class Counting:
        def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
            wake_ups.append(callback)
            loop.call_soon_threadsafe(callback)

    async def outcomes() -> list[Any]:
        hand_over = HandOver(Counting())  # type: ignore[arg-type]
        waiting = [loop.create_future() for _ in range(64)]
        cancelled = loop.create_future()
        cancelled.cancel()

        def complete() -> None:
            for future in (cancelled, *waiting):
                hand_over(future, Failed(QueueFullError("")))
            completed.set()

        threading.Thread(target=complete).start()
        assert completed.wait(TIMEOUT)  # the loop is busy meanwhile
        return await asyncio.gather(*waiting)

    assert len(run(outcomes())) == 64
    assert len(wake_ups) == 1


def test_threads_that_compute_need_not_wait_for_the_end_of_a_turn() -> None:
    """With Python's own setting a thread would wait 5 ms for the interpreter lock of a loop that is busy."""
    may_end = threading.Event()

    async def be_busy() -> None:
        while not may_end.is_set():
            pass

    busy = asyncio.run_coroutine_threadsafe(be_busy(), event_loop())
    waited = []
    for _ in range(20):
        let_go = time.monotonic()
        time.sleep(0.002)  # the loop takes the lock meanwhile
        waited.append(time.monotonic() - let_go - 0.002)
    may_end.set()
    busy.result(TIMEOUT)
    assert 0 < min(waited) < 0.003


def test_grpcios_own_errors_are_lines_of_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """grpcio itself would write a traceback to standard error for an answer over the message limit. Here its id
    makes it too large; outputs that are too large do not get so far."""
    onnx_models.publish(tmp_path, "repeated", repeated(250_000))
    sent = request("repeated", x=number(1))
    sent.id = "i" * 100_000
    config = ServerConfig(models=tmp_path, port=0, http_port=-1, max_message_mib=1, transport="grpc")
    with LiveServer(config) as live, structlog.testing.capture_logs() as logs:
        code, message = failure(lambda: live.infer(sent))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert message.startswith("SERVER: Sent message larger than max")
        ends = time.monotonic() + TIMEOUT  # the call's task ends after its client has its status
        while not any(line["log_level"] == "error" for line in logs) and time.monotonic() < ends:
            run(asyncio.sleep(0))
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["grpc._cython.cygrpc"]
    assert "Traceback" not in capfd.readouterr().err


def test_errors_in_the_loop_are_logged_but_those_of_a_second_loop() -> None:
    def fail(error: Exception) -> None:
        raise error

    with structlog.testing.capture_logs() as logs:
        event_loop().call_soon_threadsafe(fail, BlockingIOError())
        event_loop().call_soon_threadsafe(fail, LookupError("on purpose"))
        run(asyncio.sleep(0))
    assert [repr(line["exc_info"]) for line in logs] == ["LookupError('on purpose')"]
