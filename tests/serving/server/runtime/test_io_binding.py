"""IO binding with real sessions on the CPU, where ONNX Runtime binds buffers as on a GPU; and how it fails."""

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
from hangtag.serving.server.runtime.arrays import dtype_of
from hangtag.serving.server.runtime.io_binding import FixedBuffers, PinnedInputs
from hangtag.serving.server.runtime.providers import CUDA
from hangtag.serving.server.runtime.session import RUNNING, Runtime
from tests.kit import onnx_models
from tests.kit.shipped import latest
from tests.serving.server.runtime.conftest import CpuForCuda, with_binding


@pytest.mark.parametrize("name", ["lstm", "cnn"])
def test_the_shipped_models_answer_the_same_with_and_without_binding(name: str) -> None:
    file = latest(name)
    plain, fixed = Runtime(file, provider="cpu"), with_binding(file)
    assert fixed.notes == {}
    assert fixed._buffer_pool is not None
    for samples in (1, 2, 3, 5, 8, 1, 9):  # 9: more than there are buffers for
        images = np.random.default_rng(samples).integers(0, 256, (samples, 28, 28), dtype=np.uint8)
        outputs, expected = fixed.run({"image": images}), plain.run({"image": images})
        assert list(outputs) == list(expected)
        for output, array in expected.items():
            np.testing.assert_allclose(outputs[output], array, rtol=1e-4, atol=1e-5)


def test_every_datatype_but_strings_is_computed_with_the_binding(publish: Callable[[onnx.ModelProto], Path]) -> None:
    runtime = with_binding(publish(onnx_models.every_type(strings=False)))
    assert runtime._buffer_pool is not None, runtime.notes
    inputs = {spec.name: np.array([[0, 1], [1, 1], [1, 0]], dtype_of(spec)) for spec in runtime.signature.inputs}
    for name, array in runtime.run(inputs).items():
        right = inputs[name.replace("out_", "in_")]
        assert array.dtype == right.dtype
        assert array.tolist() == right.tolist()


def test_the_next_batch_does_not_overwrite_an_answer(
    publish: Callable[[onnx.ModelProto], Path],
) -> None:
    runtime = with_binding(publish(onnx_models.doubled("batch", "batch")))
    first = runtime.run({"x": np.ones((3, 2), np.float32)})["y"]
    runtime.run({"x": np.full((4, 2), 7, np.float32)})
    assert first.tolist() == [[2, 2]] * 3


def test_concurrent_callers_get_their_own_answers(publish: Callable[[onnx.ModelProto], Path]) -> None:
    runtime = with_binding(publish(onnx_models.doubled("batch", "batch")), instances=2)

    def ask(number: int) -> bool:
        rows = np.full((1 + number % 8, 2), number, np.float32)
        return bool((runtime.run({"x": rows})["y"] == 2 * rows).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(400)))


def test_values_that_the_model_refuses_fail_that_batch_only(
    publish: Callable[[onnx.ModelProto], Path],
) -> None:
    runtime = with_binding(publish(onnx_models.gather()))
    assert runtime._buffer_pool is not None, runtime.notes
    for _ in range(3):
        with pytest.raises(InvalidValuesError, match="idx=99"):
            runtime.run({"index": np.array([1, 99])})
        assert runtime.run({"index": np.array([3, 2, 1])})["value"].tolist() == [30, 20, 10]
    assert RUNNING.count == 0


@pytest.mark.parametrize("way", ["session", "binding"])
def test_while_a_batch_is_computed_other_threads_run(publish: Callable[[onnx.ModelProto], Path], way: str) -> None:
    layers = [onnx.helper.make_node("MatMul", [f"x{i}" if i else "x", "w"], [f"x{i + 1}"]) for i in range(20)]
    model = onnx_models.mapped(
        [*layers, onnx.helper.make_node("Identity", ["x20"], ["y"])],
        ["batch", 1000],
        {"w": np.eye(1000, dtype=np.float32)},
    )
    runtime = Runtime(publish(model), provider="cpu")
    if way == "binding":
        runtime.use_io_binding(64, instances=1)
        assert runtime._buffer_pool is not None, runtime.notes
    rows, steps = np.ones((64, 1000), np.float32), 0
    with ThreadPoolExecutor(1) as pool:
        computing = pool.submit(lambda: [runtime.run({"x": rows}) for _ in range(5)])
        while not computing.done():
            steps += 1
        computing.result()
    assert steps > 1000  # had computing held the GIL, this loop would have run a few times only


@pytest.mark.parametrize(
    ("name", "reason"),
    [("free_axis", "input 'x' has free axes"), ("text", "input 'text' has strings"), ("unbatched", "not joined")],
)
def test_a_model_without_fixed_shapes_is_computed_by_its_session(
    publish: Callable[[onnx.ModelProto], Path], name: str, reason: str
) -> None:
    runtime = with_binding(publish(getattr(onnx_models, name)()), cuda_graphs="on")
    assert reason in runtime.notes["no_io_binding"]
    assert runtime._buffer_pool is None
    runtime.warm_up([1])


def test_buffers_that_give_other_answers_are_not_used(
    publish: Callable[[onnx.ModelProto], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = PinnedInputs.run
    monkeypatch.setattr(PinnedInputs, "run", lambda self, inputs: run(self, {"x": inputs["x"][::-1]}))
    runtime = with_binding(publish(onnx_models.doubled("batch", "batch")))
    assert runtime.notes["no_io_binding"] == "output 'y' differs from the session's with 8 samples"
    assert runtime.run({"x": np.array([[1, 1], [2, 2]], np.float32)})["y"].tolist() == [[2, 2], [4, 4]]


def test_buffers_that_cannot_be_allocated_are_not_used(
    publish: Callable[[onnx.ModelProto], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*arguments: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("onnxruntime.InferenceSession.io_binding", no_memory)
    runtime = with_binding(publish(onnx_models.doubled("batch", "batch")))
    assert runtime.notes["no_io_binding"] == "out of memory"
    assert runtime.run({"x": np.ones((3, 2), np.float32)})["y"].tolist() == [[2, 2]] * 3


def test_the_cpu_has_no_graphs() -> None:
    runtime = with_binding(latest("cnn"), cuda_graphs="on")
    assert runtime.notes == {"no_cuda_graphs": f"only {CUDA} has CUDA graphs, not CPUExecutionProvider"}
    assert runtime._buffer_pool is not None
    assert not runtime.cuda_graphs


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
