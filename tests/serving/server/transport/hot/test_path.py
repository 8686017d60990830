"""What only the hot path could get wrong: who polls while everybody computes, and what it is asked to trust."""

import subprocess
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
from hangtag.serving.server.errors import UnavailableError
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.transport.grpc.server import GrpcServer
from hangtag.serving.server.transport.hot.path import _LONE_BATCHES, _REFUSAL_REST_SECONDS, _REFUSALS
from tests.serving.server.transport.live import TIMEOUT, Gate, LiveServer, failure, index, number, outputs, request

HOST = "localhost"
PICTURE = Path(__file__).parents[5] / "examples/garments/dress-1.png"


@pytest.fixture
def config(repository: Path) -> ServerConfig:
    return ServerConfig(models=repository, port=0, max_batch_size=4, max_queue_size=8, instances=2, hot_path="on")


@pytest.fixture
def hot(config: ServerConfig) -> Iterator[LiveServer]:
    with LiveServer(config) as server:
        yield server


def asked(live: LiveServer, value: int) -> Any:
    return live.inference.ModelInfer.future(request("gather", index=index(value)), timeout=TIMEOUT)


def test_while_every_thread_computes_others_are_still_answered(hot: LiveServer) -> None:
    with hot.gate("gather") as gate:
        calls = [asked(hot, 1)]
        gate.wait_until_computing()
        calls.append(asked(hot, 2))
        gate.wait_until_computing()
        for length in (1, 2):  # twice: the reserve thread leads, gives way, and leads again
            assert hot.infer(request("free_axis", x=number(length)))["total"].tolist() == [[length]]
            assert hot.statistics("gather").inference_count == 0
        raw = classifier_pb2.RawImage(height=28, width=28, pixels=bytes(784))
        answer = hot.classifier.Classify(classifier_pb2.ClassifyRequest(model_name="lstm", raw=raw), timeout=TIMEOUT)
        assert len(answer.labels) == 3
        gate.open()
        assert [outputs(call.result())["value"].tolist() for call in calls] == [[10], [20]]
    assert hot.infer(request("gather", index=index(3)))["value"].tolist() == [30]


def test_pictures_that_are_being_decoded_hold_up_no_call(hot: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, finish = threading.Semaphore(0), threading.Event()
    decode = images.preprocess

    def slowly(*arguments: Any, **options: Any) -> Any:
        begun.release()
        assert finish.wait(TIMEOUT)
        return decode(*arguments, **options)

    monkeypatch.setattr(images, "preprocess", slowly)
    picture = classifier_pb2.ClassifyRequest(model_name="lstm", encoded=PICTURE.read_bytes())
    calls = [hot.classifier.Classify.future(picture, timeout=TIMEOUT) for _ in range(8)]
    try:
        for _ in calls:
            assert begun.acquire(timeout=TIMEOUT)
        for value in (1, 2, 3):  # more than there are threads that poll
            assert hot.infer(request("gather", index=index(value)))["value"].tolist() == [10 * value]
    finally:
        finish.set()
    assert all(len(call.result().labels) == 3 for call in calls)


def test_what_waits_while_every_thread_computes_can_be_cancelled(hot: LiveServer) -> None:
    with hot.gate("gather") as gate:
        calls = [asked(hot, 1)]
        gate.wait_until_computing()
        calls.append(asked(hot, 2))
        gate.wait_until_computing()
        gate.wait_until_queued(2)
        waiting = asked(hot, 3)
        gate.wait_until_queued()
        waiting.cancel()
        gate.wait_until_cancelled()
        gate.open()
        assert [outputs(call.result())["value"].tolist() for call in calls] == [[10], [20]]
    assert hot.statistics("gather").inference_count == 2


def test_a_bug_of_ours_ends_one_call_with_a_reference_and_no_more(
    hot: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    with structlog.testing.capture_logs() as logs:
        with monkeypatch.context() as patched:
            patched.setattr(ServedModel, "check", broken)
            code, message = failure(lambda: hot.infer(request("gather", index=index(1, 2, 3))))
        assert code is grpc.StatusCode.INTERNAL
        assert hot.infer(request("gather", index=index(1)))["value"].tolist() == [10]
    (line,) = [line for line in logs if line["log_level"] == "error"]
    assert line["reference"] in message


def test_another_version_that_takes_a_models_place_answers_from_then_on(hot: LiveServer) -> None:
    assert hot.infer(request("gather", index=index(1)))["value"].tolist() == [10]
    assert hot.infer(request("gather", index=index(1)))["value"].tolist() == [10]
    engine = hot.server._engine
    engine._table = engine._table | {"gather": engine._table["unbatched"]}
    code, message = failure(lambda: hot.infer(request("gather", index=index(1))))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith("unknown input 'index'; the model takes x: FP32 [4]")


def test_who_may_not_call_is_refused_before_the_request_is_read(config: ServerConfig) -> None:
    asked_for: list[dict[str, str | bytes]] = []

    def authorise(metadata: Any) -> None:
        asked_for.append(dict(metadata))
        if asked_for[-1].get("authorization") != "Bearer secret":
            raise UnavailableError("stands for the error of who has no token")

    server = Server(config)
    server._transport = GrpcServer(server._engine, server.control, authorise=authorise)
    server.control.on_change = server._transport.refresh_health
    with server, grpc.insecure_channel(server.address) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        sent = request("gather", index=index(1))
        assert failure(lambda: stub.ModelInfer(sent, timeout=TIMEOUT)) == (
            grpc.StatusCode.UNAVAILABLE,
            "stands for the error of who has no token",
        )
        assert server._engine.model("gather").statistics.snapshot().inference_count == 0
        token = (("authorization", "Bearer secret"),)
        assert outputs(stub.ModelInfer(sent, timeout=TIMEOUT, metadata=token))["value"].tolist() == [10]
    assert len(asked_for) == 2


def test_a_secure_port_has_the_hot_path_too(config: ServerConfig, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    subprocess.run([*made, "-keyout", key, "-out", certificate, *subject], check=True, capture_output=True)
    server = Server(config)
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    server._transport = GrpcServer(server._engine, server.control, credentials=credentials)
    server.control.on_change = server._transport.refresh_health
    trusted = grpc.ssl_channel_credentials(certificate.read_bytes())
    with server, grpc.secure_channel(f"{HOST}:{server.port}", trusted) as channel:
        assert server._transport.path == "hot"
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert outputs(stub.ModelInfer(request("gather", index=index(2)), timeout=TIMEOUT))["value"].tolist() == [20]


def test_many_servers_come_and_go(config: ServerConfig) -> None:
    before = threading.active_count()
    for _ in range(5):
        with LiveServer(config) as live:
            assert live.infer(request("gather", index=index(1)))["value"].tolist() == [10]
    assert threading.active_count() <= before + 2  # grpcio's own, which end by themselves


def test_a_lone_call_that_takes_longer_than_expected_holds_nobody_up(hot: LiveServer) -> None:
    path = hot.server._transport._hot
    assert path is not None
    for _ in range(1000):  # calls come one at a time, and each takes a moment
        assert hot.infer(request("gather", index=index(1)))["value"].tolist() == [10]
        if path._lone_batches >= _LONE_BATCHES:
            break
    assert path._lone_batches >= _LONE_BATCHES
    with hot.gate("gather") as gate:
        call = asked(hot, 1)
        gate.wait_until_computing()
        for length in (1, 2, 3):
            assert hot.infer(request("free_axis", x=number(length)))["total"].tolist() == [[length]]
        gate.open()
        assert outputs(call.result())["value"].tolist() == [10]


def test_a_bug_of_ours_on_the_thread_that_polls_does_not_end_it(
    hot: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = hot.server._transport._hot
    assert path is not None
    may_fill = path._may_fill
    faults = [RuntimeError("a bug")] * 4

    def broken() -> bool:
        if faults:
            raise faults.pop()
        return may_fill()

    monkeypatch.setattr(path, "_may_fill", broken)
    with structlog.testing.capture_logs() as logs:
        for _ in range(6):
            assert hot.infer(request("gather", index=index(1)))["value"].tolist() == [10]
    assert faults == []
    assert [line["event"] for line in logs].count("polling failed") == 4


def test_callers_that_come_and_go_at_random_leave_a_server_that_answers(hot: LiveServer) -> None:
    random = np.random.default_rng(5)
    channels = [hot.connect() for _ in range(4)]
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
    assert hot.infer(request("gather", index=index(3)))["value"].tolist() == [30]
    model = hot.model("gather")
    assert (len(model.batcher), model.batcher.computing) == (0, 0)


def test_refusing_many_calls_gives_way_to_computing(hot: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hot.server._transport._hot
    assert path is not None
    rests: list[float] = []
    wait = path._closed.wait

    def noting(seconds: float) -> bool:
        rests.append(seconds)
        return wait(seconds)

    monkeypatch.setattr(path._closed, "wait", noting)
    with hot.gate("gather") as gate:
        calls = [asked(hot, 1)]
        gate.wait_until_computing()
        calls.append(asked(hot, 2))
        gate.wait_until_computing()
        gate.wait_until_queued(2)
        calls += [asked(hot, 3) for _ in range(8)]
        gate.wait_until_queued(8)
        refused = [asked(hot, 1) for _ in range(3 * _REFUSALS)]
        assert {call.exception(TIMEOUT).code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        while rests.count(_REFUSAL_REST_SECONDS) < 3:  # callers are told a moment before
            threading.Event().wait(0.001)
        gate.open()
        assert [outputs(call.result())["value"].item() for call in calls] == [10, 20, *[30] * 8]


def test_when_calls_are_too_old_on_arrival_it_makes_haste(hot: LiveServer) -> None:
    path = hot.server._transport._hot
    assert path is not None
    batcher = hot.model("gather").batcher
    for _ in range(80):
        batcher._service_time.observe(1, 1000.0)
    code, _ = failure(lambda: hot.infer(request("gather", index=index(1))))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    while path._refused >= 0:  # the caller is told a moment before
        threading.Event().wait(0.001)
    assert hot.infer(request("free_axis", x=number(1)))["total"].tolist() == [[1]]
    assert path._refused == 0


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
