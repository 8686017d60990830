"""IO binding with real sessions on the CPU, where ONNX Runtime binds buffers as on a GPU; and how it fails.

CUDA graphs are replaced by batches in buffers of fixed sizes, as they need them, without the capture itself.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import structlog.testing

from hangtag.protos import tensors
from hangtag.serving.server.errors import InvalidValuesError
from hangtag.serving.server.runtime.session import RUNNING, Runtime
from tests.kit import onnx_models
from tests.kit.onnx_models import from_text
from tests.kit.shipped import latest

Rows = npt.NDArray[Any]
PROVIDERS = ["CUDAExecutionProvider", "CPUExecutionProvider"]
Publish = Callable[[onnx.ModelProto], Path]
WAYS = {"pinned inputs": "off", "graphs": "on"}
both_ways = pytest.mark.parametrize("graphs", WAYS.values(), ids=WAYS)


class Binding(onnxruntime.IOBinding):  # type: ignore[misc]
    """Keeps the inputs that are bound at fixed addresses, and lets a test change others before they are bound."""

    def __init__(self, session: Any, change: Callable[[Rows], Rows]) -> None:
        super().__init__(session)
        self._change = change
        self.fixed: dict[str, Any] = {}

    def bind_cpu_input(self, name: str, rows: Rows) -> None:
        super().bind_cpu_input(name, np.ascontiguousarray(self._change(rows)))

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        self.fixed[name] = value
        super().bind_ortvalue_input(name, value)


class BoundSession:
    """A session, in which a test sees and replaces the computing of batches by IO binding."""

    def __init__(self, session: Any, providers: list[str]) -> None:
        self._session = session
        self.get_providers = lambda: providers
        self.compute: Callable[..., object] = session.run_with_iobinding
        """Computes a batch, of a binding and options."""
        self.change: Callable[[Rows], Rows] = lambda rows: rows
        """What becomes of the rows of an input that is not at a fixed address."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def io_binding(self) -> Binding:
        return Binding(self._session, lambda rows: self.change(rows))

    def run_with_iobinding(self, *arguments: Any) -> None:
        self.compute(*arguments)


class OnCpu:
    """A runtime whose session a test sees."""

    def __init__(self, file: Path, *, providers: list[str] = PROVIDERS[1:]) -> None:
        self.runtime: Any = Runtime(file, provider="cpu")
        self.session = BoundSession(self.runtime._session, providers)
        self.runtime._session = self.session


class LikeCuda(OnCpu):
    """A runtime that takes the CPU for a provider with CUDA graphs: everything around a capture, without a capture.

    ONNX Runtime ignores a graph's number on the CPU.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(file, providers=PROVIDERS)
        self.graphs = BoundSession(self.runtime._opener.open("cpu"), PROVIDERS)
        """The session that captures the graphs."""
        self.runtime._opener = SimpleNamespace(path=file, open=lambda _provider, *, cuda_graphs: self.graphs)

    def bind(self, largest: int, *, cuda_graphs: str = "on", instances: int = 1) -> Any:
        """Use IO binding; returns the runtime."""
        self.runtime.use_io_binding(largest, instances=instances, cuda_graphs=cuda_graphs)
        return self.runtime


@pytest.fixture
def publish(tmp_path: Path) -> Publish:
    return lambda model: onnx_models.publish(tmp_path / "models", "m", model)


def doubled() -> onnx.ModelProto:
    return onnx_models.doubled("batch", "batch")


def rows(*values: float) -> dict[str, Any]:
    return {"x": np.array([[value, value] for value in values], np.float32)}


def bound(file: Path, largest: int = 8, *, instances: int = 1) -> Any:
    """A runtime that computes with pinned inputs."""
    runtime: Any = Runtime(file, provider="cpu")
    runtime.use_io_binding(largest, instances=instances)
    assert runtime._buffer_pool is not None, runtime.notes
    return runtime


@pytest.mark.parametrize("name", ["lstm", "cnn"])
def test_the_shipped_models_answer_the_same_with_and_without_binding(name: str) -> None:
    file = latest(name)
    plain, fixed = Runtime(file, provider="cpu"), bound(file)
    assert fixed.notes == {}
    for samples in (1, 2, 3, 5, 8, 1, 9):  # 9: more than there are buffers for
        images = np.random.default_rng(samples).integers(0, 256, (samples, 28, 28), dtype=np.uint8)
        outputs, expected = fixed.run({"image": images}), plain.run({"image": images})
        assert list(outputs) == list(expected)
        for output, array in expected.items():
            np.testing.assert_allclose(outputs[output], array, rtol=1e-4, atol=1e-5)


@both_ways
def test_every_datatype_but_strings_is_computed_with_the_binding_and_kept(publish: Publish, graphs: str) -> None:
    runtime = LikeCuda(publish(onnx_models.every_type(strings=False))).bind(8, cuda_graphs=graphs)
    assert runtime.cuda_graphs is (graphs == "on")
    answers = []
    for samples in (8, 3, 1, 5):
        random = np.random.default_rng(samples).integers(0, 2, (samples, 2))
        inputs = {spec.name: random.astype(tensors.DTYPES[spec.datatype]) for spec in runtime.signature.inputs}
        answers.append((inputs, runtime.run(inputs)))
    for inputs, outputs in answers:  # the next batch has not overwritten an answer
        for name, array in outputs.items():
            right = inputs[name.replace("out_", "in_")]
            assert array.dtype == right.dtype
            assert array.tolist() == right.tolist()


@both_ways
def test_concurrent_callers_get_their_own_answers(publish: Publish, graphs: str) -> None:
    runtime = LikeCuda(publish(doubled())).bind(8, cuda_graphs=graphs, instances=2)

    def ask(number: int) -> bool:
        sent = np.full((1 + number % 9, 2), number, np.float32)
        return bool((runtime.run({"x": sent})["y"] == 2 * sent).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(400)))
    assert runtime.io_binding_failures == 0


@both_ways
def test_values_that_the_model_refuses_fail_that_batch_only_and_keep_the_binding(publish: Publish, graphs: str) -> None:
    runtime = LikeCuda(publish(onnx_models.gather())).bind(4, cuda_graphs=graphs)
    pool = runtime._buffer_pool
    with structlog.testing.capture_logs() as log:
        for _ in range(3):
            with pytest.raises(InvalidValuesError, match="idx=99"):
                runtime.run({"index": np.array([1, 99])})
            assert runtime.run({"index": np.array([3, 2, 1])})["value"].tolist() == [30, 20, 10]
    assert runtime._buffer_pool is pool is not None
    assert (runtime.io_binding_failures, log, RUNNING.count) == (0, [], 0)


@pytest.mark.parametrize("binding", [False, True], ids=["session", "binding"])
def test_while_a_batch_is_computed_other_threads_run(publish: Publish, binding: bool) -> None:
    layers = " ".join(f"x{i + 1} = MatMul(x{i}, w)" for i in range(20))
    text = f"(float[batch, 1000] x) => (float[batch, 1000] x20) {{ x0 = Identity(x) {layers} }}"
    file = publish(from_text(text, w=np.eye(1000, dtype=np.float32)))
    runtime = bound(file, 64) if binding else Runtime(file, provider="cpu")
    sent, steps = np.ones((64, 1000), np.float32), 0
    with ThreadPoolExecutor(1) as pool:
        computing = pool.submit(lambda: [runtime.run({"x": sent}) for _ in range(5)])
        while not computing.done():
            steps += 1
        computing.result()
    assert steps > 1000  # had computing held the GIL, this loop would have run a few times only


def ones() -> onnx.ModelProto:
    """Two ones for each sample."""
    return from_text(
        """(float[batch] x) => (float[batch, n] y) <float one = {1}, int64[1] two = {2}> {
            rows = Shape(x)
            shape = Concat <axis = 0> (rows, two)
            y = Expand(one, shape)
        }"""
    )


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (onnx_models.free_axis, "input 'x' has free axes besides the batch"),
        (ones, "output 'y' has free axes besides the batch"),
        (onnx_models.text, "input 'text' has strings"),
        (onnx_models.unbatched, "its requests are not joined"),
    ],
)
def test_a_model_without_fixed_shapes_is_computed_by_its_session(
    publish: Publish, make: Callable[[], onnx.ModelProto], reason: str
) -> None:
    runtime = LikeCuda(publish(make())).bind(8)
    assert runtime.notes["no_io_binding"].startswith(reason)
    assert runtime._buffer_pool is None
    runtime.warm_up([1])


def not_a_number(array: Any) -> Any:
    return np.full_like(array, np.nan)


def roots() -> onnx.ModelProto:
    """NaN for positive values."""
    return from_text("(float[batch, 2] x) => (float[batch, 2] y) { negative = Neg(x) y = Sqrt(negative) }")


def thousandths() -> onnx.ModelProto:
    """How many thousandths each value has."""
    return from_text(
        """(float[batch, 2] x) => (int64[batch, 2] y) <float thousand = {1000}> {
            product = Mul(x, thousand)
            y = Cast <to = 7> (product)
        }"""
    )


@pytest.mark.parametrize(
    ("make", "change", "problem"),
    [
        (doubled, lambda array: array * np.float32(1 + 1e-4), ""),
        (roots, lambda array: array, ""),
        (doubled, lambda array: array * np.float32(1.05), "output 'y' differs from the session's with 4 samples"),
        (doubled, lambda array: array[::-1], "output 'y' differs from the session's with 4 samples"),
        (doubled, lambda array: array[:1], "output 'y' differs from the session's with 4 samples"),
        (doubled, not_a_number, "output 'y' differs from the session's with 4 samples"),
        (thousandths, lambda array: array, ""),
        (thousandths, lambda array: array + np.float32(0.0008), "output 'y' differs from the session's with 4 samples"),
    ],
    ids=["rounding", "nan in both", "values", "other rows", "too few rows", "nan", "the same whole numbers", "others"],
)
def test_buffers_that_give_other_answers_are_not_used(
    publish: Publish, make: Callable[[], onnx.ModelProto], change: Callable[[Any], Any], problem: str
) -> None:
    on_cpu = OnCpu(publish(make()))
    on_cpu.session.change = change
    on_cpu.runtime.use_io_binding(4, instances=1)
    assert on_cpu.runtime.notes.get("no_io_binding", "") == problem
    assert (on_cpu.runtime._buffer_pool is None) is bool(problem)


def test_buffers_that_cannot_be_allocated_are_not_used(publish: Publish) -> None:
    def no_memory() -> Any:
        raise RuntimeError("out of memory")

    on_cpu = OnCpu(publish(doubled()))
    on_cpu.session.io_binding = no_memory  # type: ignore[method-assign]
    on_cpu.runtime.use_io_binding(8, instances=1)
    assert on_cpu.runtime.notes["no_io_binding"] == "out of memory"
    assert on_cpu.runtime.run(rows(1))["y"].tolist() == [[2, 2]]


@pytest.mark.parametrize(
    ("version", "reason"), [("", "this ONNX Runtime is built without CUDA"), ("7.5", "libcudart.so.7")]
)
def test_inputs_that_are_not_page_locked_are_in_plain_memory_and_say_why(
    publish: Publish, monkeypatch: pytest.MonkeyPatch, version: str, reason: str
) -> None:
    monkeypatch.setattr("onnxruntime.cuda_version", version)
    runtime = LikeCuda(publish(doubled())).bind(4)
    assert runtime.cuda_graphs
    assert reason in runtime.notes["not_page_locked"]


@pytest.mark.parametrize(
    ("name", "provider", "reason"),
    [
        ("cnn", "CPUExecutionProvider", "only CUDAExecutionProvider has CUDA graphs, not CPUExecutionProvider"),
        ("lstm", "CUDAExecutionProvider", "the model has LSTM, which reads the host's memory in every run"),
    ],
)
def test_without_graphs_pinned_inputs_are_used(name: str, provider: str, reason: str) -> None:
    on_cpu = OnCpu(latest(name), providers=[provider])
    on_cpu.runtime.use_io_binding(8, instances=1, cuda_graphs="on")
    assert on_cpu.runtime.notes["no_cuda_graphs"] == reason
    assert on_cpu.runtime._buffer_pool is not None
    assert not on_cpu.runtime.cuda_graphs


def test_after_a_capture_that_fails_pinned_inputs_are_used(publish: Publish) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    cuda = LikeCuda(publish(doubled()))
    cuda.graphs.compute = fail
    runtime = cuda.bind(4)
    assert runtime.notes["no_cuda_graphs"] == "operation not permitted when stream is capturing"
    assert not runtime.cuda_graphs
    assert runtime._buffer_pool is not None
    assert runtime.run(rows(1, 2, 3))["y"].tolist() == [[2, 2], [4, 4], [6, 6]]


def test_a_graph_that_reads_the_inputs_of_its_capture_is_refused(publish: Publish) -> None:
    cuda = LikeCuda(publish(doubled()))
    captured: list[Any] = []
    compute = cuda.graphs.compute

    def capture(binding: Any, *options: Any) -> None:
        if binding not in captured:
            captured.append(binding)
            compute(binding, *options)

    cuda.graphs.compute = capture
    assert cuda.bind(4).notes["no_cuda_graphs"] == "output 'y' differs from the session's with 1 samples"


@pytest.mark.parametrize(
    ("largest", "groups"),
    [
        (1, [[1]]),
        (2, [[1], [2]]),
        (3, [[1], [2], [3]]),
        (8, [[1], [2], [3, 4], [5, 6, 7, 8]]),
        (9, [[1], [2], [3, 4], [5, 6, 7, 8], [9]]),
    ],
)
def test_the_smallest_graph_that_holds_a_batch_computes_it_padded_with_its_last_row_in_one_thread(
    publish: Publish, largest: int, groups: list[list[int]]
) -> None:
    cuda = LikeCuda(publish(doubled()))
    runtime = cuda.bind(largest)
    assert runtime.cuda_graphs, runtime.notes
    used: dict[int, list[int]] = {}
    threads: set[int] = set()
    compute = cuda.graphs.compute

    def noting(binding: Any, *options: Any) -> None:
        padded = binding.fixed["x"].numpy()[:, 0].tolist()
        samples = int(max(padded))
        used.setdefault(len(padded), []).append(samples)
        assert padded == [*range(1, samples + 1), *[samples] * (len(padded) - samples)]
        threads.add(threading.get_ident())
        compute(binding, *options)

    cuda.graphs.compute = noting
    for samples in range(1, largest + 2):  # the last is larger than each graph
        assert len(runtime.run(rows(*range(1, samples + 1)))["y"]) == samples
    assert used == {group[-1]: group for group in groups}
    assert len(threads) == 1
    assert threading.get_ident() not in threads


@pytest.mark.parametrize(
    ("pinned", "graphs", "faster", "runs"),
    [
        ([10], [9], True, 4),
        ([10], [9.9], False, 4),
        ([10, 40], [9, 40], True, 2),
        ([10, 9], [9], False, 4),
        ([5000], [4000], True, 2),
    ],
    ids=["faster", "hardly faster", "the shortest run counts", "of both", "slow models run twice"],
)
def test_auto_keeps_graphs_where_they_are_faster(
    publish: Publish,
    monkeypatch: pytest.MonkeyPatch,
    pinned: list[float],
    graphs: list[float],
    faster: bool,
    runs: int,
) -> None:
    """A batch takes these milliseconds in turn, by a clock that goes on when a session computes."""
    now, computed = 0.0, []
    cuda = LikeCuda(publish(doubled()))

    def timed(compute: Callable[..., object], milliseconds: list[float]) -> Callable[..., object]:
        turns = cycle(milliseconds)

        def run(*arguments: Any) -> None:
            nonlocal now
            now += next(turns) / 1e3
            computed.append(milliseconds)
            compute(*arguments)

        return run

    cuda.session.compute = timed(cuda.session.compute, pinned)
    cuda.graphs.compute = timed(cuda.graphs.compute, graphs)
    monkeypatch.setattr("time.perf_counter", lambda: now)
    runtime = cuda.bind(1, cuda_graphs="auto")
    assert computed.count(pinned) == 2 + runs  # two have shown that its answers are right
    assert runtime.cuda_graphs is faster
    assert (runtime._session is cuda.graphs) is faster
    assert runtime.notes.get("no_cuda_graphs") == (None if faster else "they are not faster here")
    assert runtime.run(rows(1))["y"].tolist() == [[2, 2]]


def failing(publish: Publish, graphs: str, fail: Callable[..., object]) -> Any:
    """A runtime whose binding worked when it was loaded and has failed since."""
    cuda = LikeCuda(publish(onnx_models.gather()))
    runtime = cuda.bind(4, cuda_graphs=graphs, instances=2)
    assert runtime._buffer_pool is not None
    assert runtime.cuda_graphs is (graphs == "on")
    cuda.session.compute = cuda.graphs.compute = fail
    return runtime


@both_ways
def test_a_binding_that_fails_is_logged_counted_and_not_tried_again(publish: Publish, graphs: str) -> None:
    runs: list[object] = []

    def fail(*arguments: object) -> None:
        runs.append(arguments)
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

    runtime = failing(publish, graphs, fail)
    with structlog.testing.capture_logs() as log:
        for _ in range(3):
            assert runtime.run({"index": np.array([3, 1])})["value"].tolist() == [30, 10]
    assert len(runs) == 1
    assert runtime.io_binding_failures == 1
    assert not runtime.cuda_graphs
    (line,) = log
    assert (line["event"], line["log_level"]) == ("IO binding failed; from now on without", "error")
    assert line["file"].endswith("m/1/model.onnx")
    assert "an illegal memory access" in line["reason"]
    assert RUNNING.count == 0


def test_batches_that_fail_with_the_binding_at_once_are_all_counted_and_logged_once(publish: Publish) -> None:
    together = threading.Barrier(2, timeout=60)

    def fail(*_: object) -> None:
        together.wait()
        raise RuntimeError("out of memory")

    runtime = failing(publish, "off", fail)
    with structlog.testing.capture_logs() as log, ThreadPoolExecutor(2) as pool:
        answers = [*pool.map(lambda index: runtime.run({"index": np.array([index])})["value"].item(), [1, 2])]
    assert answers == [10, 20]
    assert runtime.io_binding_failures == 2
    assert len(log) == 1
