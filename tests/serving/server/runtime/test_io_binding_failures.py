"""A binding that fails after it was verified: logged, counted, and given up for the session."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import structlog.testing

from hangtag.serving.server.errors import InvalidValuesError
from hangtag.serving.server.runtime.io_binding import FixedBuffers, PinnedInputs
from hangtag.serving.server.runtime.session import RUNNING, Runtime
from tests.kit import onnx_models
from tests.serving.server.runtime.bindings import CpuForCuda, with_binding


def failing_bindings(
    publish: Callable[[onnx.ModelProto], Path], monkeypatch: pytest.MonkeyPatch, way: str
) -> tuple[Runtime, list[int]]:
    """A runtime whose binding worked when it was loaded and has failed since; and how often it was tried."""
    runtime = CpuForCuda(publish(onnx_models.gather()), monkeypatch).runtime
    runtime.use_io_binding(4, instances=1, cuda_graphs="on" if way == "graphs" else "off")
    assert runtime._buffer_pool is not None
    assert runtime.cuda_graphs is (way == "graphs")
    runs: list[int] = []

    def fail(_self: Any, inputs: Any) -> Any:
        runs.append(len(inputs["index"]))
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

    monkeypatch.setattr(FixedBuffers if way == "graphs" else PinnedInputs, "run", fail)
    return runtime, runs


@pytest.mark.parametrize("way", ["pinned inputs", "graphs"])
def test_a_binding_that_fails_is_logged_counted_and_not_tried_again(
    publish: Callable[[onnx.ModelProto], Path], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    runtime, runs = failing_bindings(publish, monkeypatch, way)
    with structlog.testing.capture_logs() as log:
        for _ in range(3):
            assert runtime.run({"index": np.array([3, 1])})["value"].tolist() == [30, 10]
    assert runs == [2]
    assert runtime.io_binding_failures == 1
    assert not runtime.cuda_graphs
    (line,) = log
    assert (line["event"], line["log_level"]) == ("IO binding failed; from now on without", "error")
    assert line["file"].endswith("m/1/model.onnx")
    assert "an illegal memory access" in line["reason"]
    assert RUNNING.count == 0


def test_batches_that_fail_with_the_binding_at_once_are_all_counted_and_logged_once(
    publish: Callable[[onnx.ModelProto], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = with_binding(publish(onnx_models.gather()), instances=2)
    together = threading.Barrier(2, timeout=60)

    def fail(_self: Any, _inputs: Any) -> Any:
        together.wait()
        raise RuntimeError("out of memory")

    monkeypatch.setattr(PinnedInputs, "run", fail)
    with structlog.testing.capture_logs() as log, ThreadPoolExecutor(2) as pool:
        answers = [*pool.map(lambda index: runtime.run({"index": np.array([index])})["value"].item(), [1, 2])]
    assert answers == [10, 20]
    assert runtime.io_binding_failures == 2
    assert len(log) == 1


def test_inputs_that_fail_with_and_without_the_binding_keep_it(
    publish: Callable[[onnx.ModelProto], Path],
) -> None:
    runtime = with_binding(publish(onnx_models.gather()))
    pool = runtime._buffer_pool
    with structlog.testing.capture_logs() as log, pytest.raises(InvalidValuesError, match="idx=99"):
        runtime.run({"index": np.array([99])})
    assert runtime._buffer_pool is pool is not None
    assert (runtime.io_binding_failures, log) == (0, [])
