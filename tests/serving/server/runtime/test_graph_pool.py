"""Batches in buffers of fixed sizes, as CUDA graphs need them: on the CPU, without the capture itself."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hangtag.serving.server.errors import InvalidValuesError, ModelLoadError
from hangtag.serving.server.runtime import binding_factory
from hangtag.serving.server.runtime.arrays import dtype_of, random_rows
from hangtag.serving.server.runtime.io_binding import FixedBuffers, GraphPool
from hangtag.serving.server.runtime.session import Runtime
from hangtag.serving.server.runtime.verification import Verification
from tests.kit import onnx_models
from tests.kit.shipped import latest
from tests.serving.server.runtime.conftest import CpuForCuda, factory_of


def test_a_network_with_lstm_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(latest("lstm"), provider="cpu")
    monkeypatch.setattr(binding_factory, "CUDA", runtime.provider)
    with pytest.raises(ModelLoadError, match="the model has LSTM, which reads the host's memory in every run"):
        factory_of(runtime).graphs((1, 2))


def test_graphs_run_in_one_thread_whatever_thread_calls(
    publish: Callable[[onnx.ModelProto], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[int] = set()
    run = FixedBuffers.run

    def noting(self: Any, inputs: Any) -> Any:
        threads.add(threading.get_ident())
        return run(self, inputs)

    runtime = CpuForCuda(publish(onnx_models.doubled("batch", "batch")), monkeypatch).runtime
    runtime.use_io_binding(8, instances=2, cuda_graphs="on")
    assert (runtime.cuda_graphs, runtime.notes) == (True, {})
    monkeypatch.setattr(FixedBuffers, "run", noting)
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    with ThreadPoolExecutor(4) as pool:
        answers = [*pool.map(lambda _: runtime.run({"x": rows})["y"], range(40))]
    assert all((answer == 2 * rows).all() for answer in answers)
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    assert runtime.run({"x": np.ones((9, 2), np.float32)})["y"].shape == (9, 2)


@pytest.mark.parametrize("name", ["doubled", "every_number"])
def test_padded_batches_answer_as_the_session_does(
    publish: Callable[[onnx.ModelProto], Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    model = onnx_models.doubled("batch", "batch") if name == "doubled" else onnx_models.every_type(strings=False)
    runtime = CpuForCuda(publish(model), monkeypatch).runtime
    runtime.use_io_binding(8, instances=1, cuda_graphs="on")
    assert (runtime.cuda_graphs, runtime.notes) == (True, {})
    for samples in (8, 3, 1, 5):
        inputs = {
            spec.name: random_rows((samples, 2), dtype_of(spec), seed=samples) for spec in runtime.signature.inputs
        }
        expected = runtime._run_session(inputs)
        for output, array in runtime.run(inputs).items():
            assert array.dtype == expected[output].dtype
            assert array.tolist() == expected[output].tolist()


def test_graphs_refuse_values_as_the_session_does(
    publish: Callable[[onnx.ModelProto], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = CpuForCuda(publish(onnx_models.gather()), monkeypatch).runtime
    runtime.use_io_binding(4, instances=1, cuda_graphs="on")
    assert runtime.cuda_graphs
    with pytest.raises(InvalidValuesError, match="idx=99"):
        runtime.run({"index": np.array([99])})
    assert runtime.run({"index": np.array([3])})["value"].tolist() == [30]


@pytest.mark.parametrize("gains", [True, False])
def test_auto_keeps_graphs_where_they_are_faster(
    publish: Callable[[onnx.ModelProto], Path], monkeypatch: pytest.MonkeyPatch, gains: bool
) -> None:
    monkeypatch.setattr(Verification, "is_faster", lambda *_: gains)
    runtime = CpuForCuda(publish(onnx_models.doubled("batch", "batch")), monkeypatch).runtime
    session = runtime._session
    runtime.use_io_binding(4, instances=1, cuda_graphs="auto")
    assert runtime.cuda_graphs is gains
    assert (runtime._session is session) is not gains
    assert runtime.notes == ({} if gains else {"no_cuda_graphs": "they are not faster here"})
    assert runtime.run({"x": np.ones((3, 2), np.float32)})["y"].tolist() == [[2, 2]] * 3


def test_after_a_capture_that_fails_pinned_inputs_are_used(
    publish: Callable[[onnx.ModelProto], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def captured(self: Any, inputs: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(GraphPool, "run", captured)
    runtime = CpuForCuda(publish(onnx_models.doubled("batch", "batch")), monkeypatch).runtime
    runtime.use_io_binding(4, instances=1, cuda_graphs="on")
    assert not runtime.cuda_graphs
    assert runtime.notes["no_cuda_graphs"] == "operation not permitted when stream is capturing"
    assert runtime._buffer_pool is not None
    assert runtime.run({"x": np.ones((3, 2), np.float32)})["y"].tolist() == [[2, 2]] * 3
