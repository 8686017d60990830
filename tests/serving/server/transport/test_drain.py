"""A server that stops answers every call that it had accepted, whichever transport brought it."""

import threading
from pathlib import Path

import numpy as np
import pytest

from hangtag.serving.server.config.server_config import ServerConfig
from tests import onnx_models
from tests.serving.server.transport.live import TIMEOUT, Gate, LiveServer, index, outputs, request

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


def test_no_call_that_was_accepted_is_lost(models: Path, transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hangtag.serving.server.transport.native.server._POLL_SECONDS", 0)  # it closes at once
    for _ in range(STOPS):
        with LiveServer(ServerConfig(models=models, port=0, http_port=-1, transport=transport)) as live:
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


def test_a_large_response_leaves_whole(models: Path, transport: str) -> None:
    """Four megabytes, which the transport still writes when the model is long done."""
    million = np.ones((1, 1_000_000), np.float32)
    with LiveServer(ServerConfig(models=models, port=0, http_port=-1, transport=transport)) as live:
        gate = Gate(live.model("added"))
        call = live.inference.ModelInfer.future(request("added", x=million, y=million), timeout=TIMEOUT)
        gate.wait_until_queued()
        stopping = stop(live)
        gate.open()
        assert (outputs(call.result())["sum"] == 2).all()
        stopping.join(TIMEOUT)
