"""Models are loaded, replaced and unloaded, by calls and by polling, while clients call them."""

import gc
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import structlog.testing

from hangtag.protos import inference_pb2 as pb
from tests.kit import onnx_models
from tests.kit.live import LiveServer, failure, index, outputs, request
from tests.kit.over_http import HTTP, live_server
from tests.kit.waiting import TIMEOUT, until

CALLERS = 4
RELOADS = int(os.environ.get("RELOADS", "10"))
"""The number of reloads. The environment variable RELOADS can raise it."""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return onnx_models.publish_all(tmp_path, "gather", "classifier")


@pytest.fixture
def explicit(models: Path, transport: str) -> Iterator[LiveServer]:
    with live_server(transport, models, model_control="explicit", num_versions=2) as live:
        yield live


def load(live: LiveServer, name: str) -> None:
    live.inference.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name), timeout=TIMEOUT)


def unload(live: LiveServer, name: str) -> None:
    live.inference.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=name), timeout=TIMEOUT)


def listed(live: LiveServer, *, ready: bool = False) -> list[tuple[str, str, str]]:
    index_ = live.inference.RepositoryIndex(pb.RepositoryIndexRequest(ready=ready), timeout=TIMEOUT)
    return [(model.name, model.version, model.state) for model in index_.models]


def cannot(transport: str) -> grpc.StatusCode:
    """The status code if a model cannot be loaded or unloaded. Over HTTP, it is 400, as in Triton."""
    return grpc.StatusCode.INVALID_ARGUMENT if transport == HTTP else grpc.StatusCode.FAILED_PRECONDITION


def test_load_and_unload_by_call(explicit: LiveServer, models: Path) -> None:
    assert explicit.ready()
    assert listed(explicit, ready=True) == []
    not_loaded = ("classifier", "1", "UNAVAILABLE")  # listed as loadable
    assert listed(explicit) == [not_loaded, ("gather", "1", "UNAVAILABLE")]
    assert not explicit.ready("gather")
    load(explicit, "gather")
    for _ in range(3):  # so that a transport that recognises repeated requests will recognise this request
        assert explicit.infer(request("gather", index=index(2)))["value"].tolist() == [20]
    assert explicit.ready("gather")
    onnx_models.publish(models, "gather", onnx_models.gather(), version=2)
    load(explicit, "gather")
    assert listed(explicit) == [("gather", "1", "READY"), ("gather", "2", "READY"), not_loaded]
    for requested, version in (("", "2"), ("2", "2"), ("1", "1")):
        sent = request("gather", index=index(3))
        sent.model_version = requested
        answer = explicit.inference.ModelInfer(sent, timeout=TIMEOUT)
        assert (answer.model_version, outputs(answer)["value"].tolist()) == (version, [30])
    metadata = explicit.inference.ModelMetadata(pb.ModelMetadataRequest(name="gather"))
    assert list(metadata.versions) == ["2", "1"]
    unload(explicit, "gather")
    assert listed(explicit) == [not_loaded, ("gather", "2", "UNAVAILABLE")]
    assert not explicit.ready("gather")
    assert failure(lambda: explicit.infer(request("gather", index=index(2))))[0] is grpc.StatusCode.NOT_FOUND


def test_impossible_loads_and_unloads_are_refused(explicit: LiveServer, live: LiveServer, transport: str) -> None:
    for name in ("nobody", "../gather", "gather/1", "a" * 255):
        assert failure(lambda n=name: load(explicit, n))[0] is grpc.StatusCode.NOT_FOUND  # type: ignore[misc]
        assert failure(lambda n=name: unload(explicit, n))[0] is grpc.StatusCode.NOT_FOUND  # type: ignore[misc]
    with_parameter = pb.RepositoryModelLoadRequest(model_name="gather")
    with_parameter.parameters["config"].string_param = "{}"
    code, message = failure(lambda: explicit.inference.RepositoryModelLoad(with_parameter, timeout=TIMEOUT))
    assert (code, message[:35]) == (grpc.StatusCode.INVALID_ARGUMENT, "parameter 'config' is not supported")
    if transport != HTTP:  # an HTTP request names no repository, and has a shorter path
        named = pb.RepositoryModelLoadRequest(repository_name="other", model_name="gather")
        code, _ = failure(lambda: explicit.inference.RepositoryModelLoad(named, timeout=TIMEOUT))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert failure(lambda: load(explicit, "a" * 100_000))[0] is grpc.StatusCode.NOT_FOUND
    for change in (load, unload):  # this server has no explicit model control
        code, message = failure(lambda change=change: change(live, "gather"))  # type: ignore[misc]
        assert code is cannot(transport)
        assert "start the server with --model-control explicit" in message


@pytest.mark.parametrize("calls", [0, 1, 20])
def test_an_unloaded_model_is_gone_with_its_memory(explicit: LiveServer, calls: int) -> None:
    """An open connection, and a transport that remembers requests, must not keep the model in memory."""
    load(explicit, "gather")
    with explicit.caller() as infer:
        for _ in range(calls):
            assert outputs(infer(request("gather", index=index(2))))["value"].tolist() == [20]
        assert explicit.gates.loaded("gather") == 1
        unload(explicit, "gather")
        until(lambda: explicit.gates.loaded("gather") == 0)


def test_reloads_under_load_fail_no_request(explicit: LiveServer, transport: str) -> None:
    load(explicit, "classifier")
    done = threading.Event()
    images = [np.full((1, 28, 28), number, np.uint8) for number in range(CALLERS)]

    def check(number: int, answer: pb.ModelInferResponse) -> None:
        logits = outputs(answer)["logits"]
        np.testing.assert_allclose(logits, onnx_models.logits_of(images[number]), rtol=1e-4, atol=1e-4)

    def call(number: int) -> int:
        answered = 0
        with explicit.caller() as infer:
            while not done.is_set():
                check(number, infer(request("classifier", image=images[number])))
                answered += 1
        return answered

    def stream() -> int:
        sent = iter(lambda: None if done.is_set() else request("classifier", image=images[0]), None)
        answers = list(explicit.inference.ModelStreamInfer(sent, timeout=TIMEOUT))
        for answer in answers:
            assert answer.error_message == ""
            check(0, answer.infer_response)
        return len(answers)

    with ThreadPoolExecutor() as pool:
        callers = [pool.submit(call, number) for number in range(CALLERS)]
        if transport != HTTP:
            callers.append(pool.submit(stream))
        for _ in range(RELOADS):
            load(explicit, "classifier")
        done.set()
        assert all(caller.result(TIMEOUT) for caller in callers)
    assert explicit.server.state().loads == {("classifier", "ok"): RELOADS + 1}
    assert explicit.server.state().failures == {}


def test_polling_sees_a_file_overwritten_in_place_with_equal_size_and_time(models: Path, transport: str) -> None:
    first, second = (onnx_models.shifted(by).SerializeToString() for by in (1, 2))
    assert len(first) == len(second)
    file = onnx_models.publish(models, "shifted", onnx_models.shifted(1))
    # With more threads, the server could open a second session, which would read the changed file although no
    # reload was requested.
    with live_server(transport, models, model_control="poll", poll_seconds=0.1, intra_op_threads=1) as live:
        sent = request("shifted", x=np.zeros((1, 2), np.float32))
        assert live.infer(sent)["y"].tolist() == [[1, 1]]
        before = file.stat()
        with file.open("r+b") as opened:
            opened.write(second)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        after = file.stat()
        assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
        until(lambda: live.infer(sent)["y"].tolist() == [[2, 2]])


def test_a_load_that_fails_after_its_caller_has_left_is_no_error_of_the_event_loop(
    explicit: LiveServer, models: Path
) -> None:
    onnx_models.publish(models, "gather", onnx_models.gather(), version=2).write_text("no model")
    with structlog.testing.capture_logs() as log, ThreadPoolExecutor() as callers:
        with explicit.gates.held_load("classifier") as held:
            first = callers.submit(load, explicit, "classifier")
            held.wait()
            sent = pb.RepositoryModelLoadRequest(model_name="gather")
            failure(lambda: explicit.inference.RepositoryModelLoad(sent, timeout=0.2))
        first.result(TIMEOUT)
        load(explicit, "classifier")  # after the failed load
        gc.collect()
    assert explicit.server.state().loads["gather", "error"] == 1
    assert "unexpected error in the event loop" not in [line["event"] for line in log]
