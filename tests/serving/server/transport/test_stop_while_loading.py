"""A server that is to stop while it loads or unloads models: it says so at once, and changes nothing any more."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.runtime.session import Runtime
from tests.kit import onnx_models
from tests.kit.live import (
    TIMEOUT,
    LiveServer,
    failure,
    index,
    number,
    outputs,
    request,
    status_of,
    watch,
)
from tests.kit.over_http import live_server

pytestmark = pytest.mark.slow

NEVER = 3600


class HeldLoad:
    """Holds back the loads of a model's second version until they may go on."""

    def __init__(self, name: str) -> None:
        self._begun, self._may_go_on = begun, may_go_on = threading.Event(), threading.Event()

        class HeldRuntime(Runtime):
            def __init__(self, path: Path, **options: Any) -> None:
                if path.parents[1].name == name and path.parents[0].name == "2":
                    begun.set()
                    assert may_go_on.wait(TIMEOUT)
                super().__init__(path, **options)

        self.runtimes = HeldRuntime

    def wait_until_begun(self) -> None:
        assert self._begun.wait(TIMEOUT)

    def go_on(self) -> None:
        self._may_go_on.set()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("added", "free_axis", "gather"):
        onnx_models.publish(tmp_path, name, getattr(onnx_models, name)())
    return tmp_path


@contextmanager
def stopping(live: LiveServer, grace: float = NEVER) -> Iterator[threading.Thread]:
    """Stop the server in a thread; inside the block it has begun to, and after it, it must end."""
    states = watch(live.health, "", timeout=TIMEOUT / 3)
    assert next(states) == "SERVING"
    thread = threading.Thread(target=live.server.stop, args=(grace,))
    thread.start()
    try:
        assert list(states) == ["NOT_SERVING"]
        yield thread
    finally:
        thread.join(TIMEOUT)
    assert not thread.is_alive()


def versions(live: LiveServer, name: str) -> list[str]:
    return [model.version for model in live.server._engine.versions(name)]


def test_a_poll_that_loads_a_model_does_not_hold_up_the_stop(models: Path, transport: str) -> None:
    load = HeldLoad("gather")
    with live_server(transport, models, model_control="poll", poll_seconds=0.1, runtimes=load.runtimes) as live:
        onnx_models.publish(models, "gather", onnx_models.gather(), version=2)
        load.wait_until_begun()
        try:
            with stopping(live) as thread:
                code, _ = failure(lambda: live.infer(request("gather", index=index(1))))
                assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
                assert thread.is_alive(), "it did not wait for the load, and the process would end in the midst of it"
                load.go_on()
        finally:
            load.go_on()
        assert versions(live, "gather") == ["1"]


def test_a_call_that_loads_a_model_ends_with_unavailable_and_changes_nothing(models: Path, transport: str) -> None:
    load = HeldLoad("gather")
    with live_server(transport, models, model_control="explicit", load_model=("*",), runtimes=load.runtimes) as live:
        onnx_models.publish(models, "gather", onnx_models.gather(), version=2)
        message = pb.RepositoryModelLoadRequest(model_name="gather")
        call = live.inference.RepositoryModelLoad.future(message, timeout=TIMEOUT)
        load.wait_until_begun()
        with stopping(live):
            load.go_on()
            error = call.exception(TIMEOUT)
        assert (error.code(), error.details()) == (
            grpc.StatusCode.UNAVAILABLE,
            "the server is stopping, and changes nothing any more",
        )
        assert versions(live, "gather") == ["1"]


def test_a_poll_that_ends_during_the_drain_leaves_health_at_not_serving(models: Path, transport: str) -> None:
    load = HeldLoad("gather")
    with (
        live_server(transport, models, model_control="poll", poll_seconds=NEVER, runtimes=load.runtimes) as live,
        live.gate("free_axis") as gate,
    ):
        call = live.inference.ModelInfer.future(request("free_axis", x=number(3)), timeout=TIMEOUT)
        gate.wait_until_computing()
        onnx_models.publish(models, "added", onnx_models.added(), version=2)
        onnx_models.publish(models, "gather", onnx_models.gather(), version=2)
        poll = threading.Thread(target=live.server.control.poll)
        poll.start()
        load.wait_until_begun()
        with stopping(live):
            load.go_on()
            poll.join(TIMEOUT)
            assert (versions(live, "added"), versions(live, "gather")) == (["2"], ["1"])
            assert [status_of(live.health, name) for name in ("", "added", "gather")] == ["NOT_SERVING"] * 3
            gate.open()
            assert outputs(call.result())["total"].tolist() == [[3]]


def test_during_the_drain_native_is_not_ready_and_unloads_nothing(models: Path) -> None:
    """Its connections stay open, so a probe on one of them goes on to get answers."""
    with (
        live_server("native", models, model_control="explicit", load_model=("*",)) as live,
        live.gate("free_axis") as gate,
    ):
        call = live.inference.ModelInfer.future(request("free_axis", x=number(3)), timeout=TIMEOUT)
        gate.wait_until_computing()
        with stopping(live):
            assert not live.inference.ServerReady(pb.ServerReadyRequest(), timeout=TIMEOUT).ready
            assert not live.inference.ModelReady(pb.ModelReadyRequest(name="gather"), timeout=TIMEOUT).ready
            unload = pb.RepositoryModelUnloadRequest(model_name="gather")
            code, message = failure(lambda: live.inference.RepositoryModelUnload(unload, timeout=TIMEOUT))
            assert (code, message.split(",")[0]) == (grpc.StatusCode.UNAVAILABLE, "the server is stopping")
            assert status_of(live.health, "") == "NOT_SERVING"
            gate.open()
            assert outputs(call.result())["total"].tolist() == [[3]]
        assert versions(live, "gather") == ["1"]
