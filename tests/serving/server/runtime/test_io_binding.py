"""Buffers at fixed addresses, with real sessions: on the CPU, where ONNX Runtime binds them as it does on a GPU."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hangtag.serving.server.errors import InvalidValuesError, ModelLoadError
from hangtag.serving.server.runtime import session as runtime_module
from hangtag.serving.server.runtime.batch_buckets import random_rows
from hangtag.serving.server.runtime.io_binding import FixedBuffers, OneThreadSession, Staging
from hangtag.serving.server.runtime.providers import CUDA
from hangtag.serving.server.runtime.session import Runtime
from hangtag.serving.server.runtime.verification import Proof
from tests import onnx_models
from tests.shipped import latest


@pytest.fixture
def publish(tmp_path: Path) -> Callable[[onnx.ModelProto], Path]:
    return lambda made: onnx_models.publish(tmp_path / "models", "m", made)


def bound(file: Path, largest: int = 8, slots: int = 1, cuda_graphs: str = "off") -> Runtime:
    runtime = Runtime(file, provider="cpu")
    runtime.bind(largest, slots=slots, cuda_graphs=cuda_graphs)
    return runtime


@pytest.mark.parametrize("name", ["lstm", "cnn"])
def test_the_shipped_models_answer_as_without_at_every_size(name: str) -> None:
    file = latest(name)
    plain, fixed = Runtime(file, provider="cpu"), bound(file)
    assert fixed.notes == {}
    assert fixed._bound is not None
    for samples in (1, 2, 3, 5, 8, 1, 9):  # 9: more than there are buffers for
        images = np.random.default_rng(samples).integers(0, 256, (samples, 28, 28), dtype=np.uint8)
        got, expected = fixed.run({"image": images}), plain.run({"image": images})
        assert list(got) == list(expected)
        for output, array in expected.items():
            np.testing.assert_allclose(got[output], array, rtol=1e-4, atol=1e-5)


def every_number() -> onnx.ModelProto:
    """As onnx_models.every_type, without strings."""
    types = {name: type_ for name, type_ in onnx_models.TYPES.items() if name != "BYTES"}
    return onnx_models.model(
        [onnx.helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in types],
        {f"in_{name}": (type_, ["batch", 2]) for name, type_ in types.items()},
        {f"out_{name}": (type_, ["batch", 2]) for name, type_ in types.items()},
    )


def test_every_datatype_but_strings_comes_back_as_it_went(publish: Callable[[onnx.ModelProto], Path]) -> None:
    runtime = bound(publish(every_number()))
    assert runtime._bound is not None, runtime.notes
    inputs = {
        spec.name: np.array([[0, 1], [1, 1], [1, 0]], runtime_module.dtype_of(spec))
        for spec in runtime.signature.inputs
    }
    for name, array in runtime.run(inputs).items():
        right = inputs[name.replace("out_", "in_")]
        assert array.dtype == right.dtype
        assert array.tolist() == right.tolist()


def test_an_answer_stays_what_it_is_when_the_buffers_are_written_again(
    publish: Callable[[onnx.ModelProto], Path],
) -> None:
    runtime = bound(publish(onnx_models.doubled("batch", "batch")))
    first = runtime.run({"x": np.ones((3, 2), np.float32)})["y"]
    runtime.run({"x": np.full((4, 2), 7, np.float32)})
    assert first.tolist() == [[2, 2]] * 3


def test_callers_at_once_get_their_own_answers(publish: Callable[[onnx.ModelProto], Path]) -> None:
    runtime = bound(publish(onnx_models.doubled("batch", "batch")), slots=2)

    def ask(number: int) -> bool:
        rows = np.full((1 + number % 8, 2), number, np.float32)
        return bool((runtime.run({"x": rows})["y"] == 2 * rows).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(400)))


def test_values_that_the_model_refuses_are_refused_alike_and_harm_nobody(
    publish: Callable[[onnx.ModelProto], Path],
) -> None:
    runtime = bound(publish(onnx_models.gather()))
    assert runtime._bound is not None, runtime.notes
    for _ in range(3):
        with pytest.raises(InvalidValuesError, match="idx=99"):
            runtime.run({"index": np.array([1, 99])})
        assert runtime.run({"index": np.array([3, 2, 1])})["value"].tolist() == [30, 20, 10]
    assert Runtime._running == 0


@pytest.mark.parametrize("way", ["session", "bound"])
def test_while_a_batch_is_computed_other_threads_run(publish: Callable[[onnx.ModelProto], Path], way: str) -> None:
    layers = [onnx.helper.make_node("MatMul", [f"x{i}" if i else "x", "w"], [f"x{i + 1}"]) for i in range(20)]
    made = onnx_models.model(
        [*layers, onnx.helper.make_node("Identity", ["x20"], ["y"])],
        {"x": (onnx.TensorProto.FLOAT, ["batch", 1000])},
        {"y": (onnx.TensorProto.FLOAT, ["batch", 1000])},
        {"w": np.eye(1000, dtype=np.float32)},
    )
    runtime = Runtime(publish(made), provider="cpu")
    if way == "bound":
        runtime.bind(64, slots=1)
        assert runtime._bound is not None, runtime.notes
    rows, steps = np.ones((64, 1000), np.float32), 0
    with ThreadPoolExecutor(1) as pool:
        computing = pool.submit(lambda: [runtime.run({"x": rows}) for _ in range(5)])
        while not computing.done():
            steps += 1
        computing.result()
    assert steps > 1000  # a thread that never gives way in between would let this one look a few times only


@pytest.mark.parametrize(
    ("name", "reason"),
    [("free_axis", "input 'x' has sizes"), ("text", "input 'text' has strings"), ("unbatched", "not joined")],
)
def test_what_has_no_fixed_sizes_is_computed_as_before(
    publish: Callable[[onnx.ModelProto], Path], name: str, reason: str
) -> None:
    runtime = bound(publish(getattr(onnx_models, name)()), cuda_graphs="on")
    assert reason in runtime.notes["no_io_binding"]
    assert runtime._bound is None
    runtime.warm_up([1])


def test_buffers_that_give_other_answers_are_not_used(
    publish: Callable[[onnx.ModelProto], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Staging.run
    monkeypatch.setattr(Staging, "run", lambda self, inputs: run(self, {"x": inputs["x"][::-1]}))
    runtime = bound(publish(onnx_models.doubled("batch", "batch")))
    assert runtime.notes["no_io_binding"] == "output 'y' is not the session's own with 8 samples"
    assert runtime.run({"x": np.array([[1, 1], [2, 2]], np.float32)})["y"].tolist() == [[2, 2], [4, 4]]


def test_buffers_that_cannot_be_had_are_done_without(
    publish: Callable[[onnx.ModelProto], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*arguments: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("onnxruntime.InferenceSession.io_binding", no_memory)
    runtime = bound(publish(onnx_models.doubled("batch", "batch")))
    assert runtime.notes["no_io_binding"] == "out of memory"
    assert runtime.run({"x": np.ones((3, 2), np.float32)})["y"].tolist() == [[2, 2]] * 3


def test_the_cpu_has_no_graphs() -> None:
    runtime = bound(latest("cnn"), cuda_graphs="on")
    assert runtime.notes == {"no_cuda_graphs": f"they are {CUDA}'s, not CPUExecutionProvider's"}
    assert runtime._bound is not None
    assert not runtime.cuda_graphs


def test_a_network_with_lstm_is_not_tried() -> None:
    runtime = Runtime(latest("lstm"), provider="cpu")
    runtime.provider = CUDA
    with pytest.raises(ModelLoadError, match="the model has LSTM, which reads the host's memory in every run"):
        runtime._graphs((1, 2))


class CpuForCuda:
    """A runtime whose provider is believed to capture graphs: all that surrounds a capture, without one.

    ONNX Runtime ignores a graph's number on the CPU.
    """

    def __init__(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runtime = Runtime(file, provider="cpu")
        new = self.runtime._new_session
        monkeypatch.setattr(self.runtime, "_new_session", lambda _provider, *, cuda_graphs: new("cpu"))
        graphs = self.runtime._graphs

        def believed(sizes: tuple[int, ...]) -> OneThreadSession:
            with monkeypatch.context() as patch:
                patch.setattr(runtime_module, "CUDA", self.runtime.provider)
                return graphs(sizes)

        monkeypatch.setattr(self.runtime, "_graphs", believed)


def test_graphs_run_in_one_thread_whoever_asks(
    publish: Callable[[onnx.ModelProto], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[int] = set()
    run = FixedBuffers.run

    def noting(self: Any, inputs: Any) -> Any:
        threads.add(threading.get_ident())
        return run(self, inputs)

    runtime = CpuForCuda(publish(onnx_models.doubled("batch", "batch")), monkeypatch).runtime
    runtime.bind(8, slots=2, cuda_graphs="on")
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
    made = onnx_models.doubled("batch", "batch") if name == "doubled" else every_number()
    runtime = CpuForCuda(publish(made), monkeypatch).runtime
    runtime.bind(8, slots=1, cuda_graphs="on")
    assert (runtime.cuda_graphs, runtime.notes) == (True, {})
    for samples in (8, 3, 1, 5):
        inputs = {
            spec.name: random_rows((samples, 2), runtime_module.dtype_of(spec), seed=samples)
            for spec in runtime.signature.inputs
        }
        expected = runtime._ordinary(inputs)
        for output, array in runtime.run(inputs).items():
            assert array.dtype == expected[output].dtype
            assert array.tolist() == expected[output].tolist()


def test_graphs_refuse_values_as_the_session_does(
    publish: Callable[[onnx.ModelProto], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = CpuForCuda(publish(onnx_models.gather()), monkeypatch).runtime
    runtime.bind(4, slots=1, cuda_graphs="on")
    assert runtime.cuda_graphs
    with pytest.raises(InvalidValuesError, match="idx=99"):
        runtime.run({"index": np.array([99])})
    assert runtime.run({"index": np.array([3])})["value"].tolist() == [30]


@pytest.mark.parametrize("gains", [True, False])
def test_auto_keeps_graphs_where_they_are_faster(
    publish: Callable[[onnx.ModelProto], Path], monkeypatch: pytest.MonkeyPatch, gains: bool
) -> None:
    monkeypatch.setattr(Proof, "gains", lambda *_: gains)
    runtime = CpuForCuda(publish(onnx_models.doubled("batch", "batch")), monkeypatch).runtime
    session = runtime._session
    runtime.bind(4, slots=1, cuda_graphs="auto")
    assert runtime.cuda_graphs is gains
    assert (runtime._session is session) is not gains
    assert runtime.notes == ({} if gains else {"no_cuda_graphs": "they are not faster here"})
    assert runtime.run({"x": np.ones((3, 2), np.float32)})["y"].tolist() == [[2, 2]] * 3


def test_a_capture_that_fails_leaves_the_buffers_without(
    publish: Callable[[onnx.ModelProto], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def captured(self: Any, inputs: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(OneThreadSession, "run", captured)
    runtime = CpuForCuda(publish(onnx_models.doubled("batch", "batch")), monkeypatch).runtime
    runtime.bind(4, slots=1, cuda_graphs="on")
    assert not runtime.cuda_graphs
    assert runtime.notes["no_cuda_graphs"] == "operation not permitted when stream is capturing"
    assert runtime._bound is not None
    assert runtime.run({"x": np.ones((3, 2), np.float32)})["y"].tolist() == [[2, 2]] * 3
