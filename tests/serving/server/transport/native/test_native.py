"""What only the native transport could get wrong: receiving while every thread computes, and what it trusts."""

import dataclasses
import gc
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
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.transport.native.server import NativeServer
from hangtag.serving.server.transport.native.unary_calls import METHODS
from hangtag.serving.server.transport.queries.infer_message import InferMessageQuery
from tests import onnx_models
from tests.serving.server.transport.live import TIMEOUT, Gate, LiveServer, failure, index, number, outputs, request

TOKEN = "a-secret-of-enough-characters"
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
    def files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    held = []
    for _ in range(6):
        with LiveServer(config) as live:
            assert live.infer(request("gather", index=index(1)))["value"].tolist() == [10]
            transport = live.server._transport
            assert isinstance(transport, NativeServer)
            assert transport._folder is not None
            folder = Path(transport._folder.name)
            assert folder.stat().st_mode & 0o777 == 0o700  # only this user may enter it
        assert not folder.exists()
        gc.collect()  # a channel ends with its last reference
        held.append((files(), threading.active_count()))
    (first_files, first_threads), (last_files, last_threads) = held[2], held[-1]  # grpcio keeps some for later servers
    assert last_files <= first_files + 2
    assert last_threads <= first_threads + 1


def test_a_port_in_use_is_refused_and_leaves_nothing_behind(native: LiveServer, config: ServerConfig) -> None:
    threads = threading.active_count()
    second = Server(dataclasses.replace(config, port=native.server.port))
    with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{native.server.port}: another program has the"):
        second.start()
    assert threading.active_count() == threads
    assert native.infer(request("gather", index=index(1)))["value"].tolist() == [10]


def test_a_model_with_more_instances_than_the_server_has_a_thread_for_each(tmp_path: Path) -> None:
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    (tmp_path / "gather" / "serving.toml").write_text("instances = 4\nmax_batch_size = 1\n")
    config = ServerConfig(models=tmp_path, port=0, instances=1, transport="native")
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
        calls = [send(native, 1)]
        gate.wait_until_computing()
        calls.append(send(native, 2))
        gate.wait_until_computing()
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


def test_a_call_that_comes_while_it_drains_is_refused_and_those_before_it_are_answered(native: LiveServer) -> None:
    with native.gate("gather") as gate:
        call = send(native, 3)
        gate.wait_until_computing()
        stopping = threading.Thread(target=native.server.stop, args=(TIMEOUT,))
        stopping.start()
        transport = native.server._transport
        assert isinstance(transport, NativeServer)
        while not transport._calls._stopping:
            threading.Event().wait(0.001)
        code, message = failure(lambda: native.infer(request("gather", index=index(4))))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert message == "the server is stopping and takes no new requests; try another replica"
        assert not call.done()
        gate.open()
        stopping.join(TIMEOUT)
        assert outputs(call.result())["value"].tolist() == [30]


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
