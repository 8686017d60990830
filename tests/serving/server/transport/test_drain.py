"""A server that stops answers every call that it had accepted, whichever transport brought it."""

import threading
from pathlib import Path

import numpy as np
import pytest

from tests.kit import onnx_models
from tests.kit.live import TIMEOUT, Gate, LiveServer, index, outputs, request
from tests.kit.over_http import EVERY_TRANSPORT, live_server

pytestmark = pytest.mark.slow

STOPS = 10
CALLS = 8


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("gather", "added"):
        onnx_models.publish(tmp_path, name, getattr(onnx_models, name)())
    return tmp_path


def stop(live: LiveServer) -> threading.Thread:
    """Drain it from another thread, and wait until it has begun to."""
    begun, refresh = threading.Event(), live.server.control.stop

    def noting() -> None:
        begun.set()
        refresh()

    live.server.control.stop = noting  # type: ignore[method-assign]
    stopping = threading.Thread(target=live.server.stop, args=(TIMEOUT,))
    stopping.start()
    assert begun.wait(TIMEOUT)
    return stopping


@EVERY_TRANSPORT
def test_no_call_that_was_accepted_is_lost(models: Path, transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hangtag.serving.server.transport.native.server._POLL_SECONDS", 0)  # it closes at once
    for _ in range(STOPS):
        with live_server(transport, models) as live:
            gate = Gate(live.model("gather"))
            calls = [
                live.inference.ModelInfer.future(request("gather", index=index(3)), timeout=TIMEOUT)
                for _ in range(CALLS)
            ]
            gate.wait_until_queued(CALLS)
            stopping = stop(live)
            gate.open()
            assert [outputs(call.result())["value"].tolist() for call in calls] == [[30]] * CALLS
            stopping.join(TIMEOUT)
            assert not stopping.is_alive()


@EVERY_TRANSPORT
def test_a_large_response_leaves_whole(models: Path, transport: str) -> None:
    """Four megabytes, which the transport still writes when the model is long done."""
    million = np.ones((1, 1_000_000), np.float32)
    with live_server(transport, models) as live:
        gate = Gate(live.model("added"))
        call = live.inference.ModelInfer.future(request("added", x=million, y=million), timeout=TIMEOUT)
        gate.wait_until_queued()
        stopping = stop(live)
        gate.open()
        assert (outputs(call.result())["sum"] == 2).all()
        stopping.join(TIMEOUT)
