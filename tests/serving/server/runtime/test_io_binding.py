"""IO binding in real CPU sessions: with pinned inputs, with the bindings for CUDA graphs, and with failures."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import structlog.testing

from hangtag.protos import tensors
from hangtag.serving.server.errors import InvalidValuesError
from hangtag.serving.server.runtime.session import Runtime
from tests.kit import onnx_models
from tests.kit.onnx_models import from_text
from tests.serving.server.runtime.seen_sessions import PROVIDERS, OnCpu, Rows, rows

Publish = Callable[[onnx.ModelProto], Path]
WAYS = {"pinned inputs": "off", "graphs": "on"}
both_ways = pytest.mark.parametrize("graphs", WAYS.values(), ids=WAYS)


@pytest.fixture
def publish(tmp_path: Path) -> Publish:
    return lambda model: onnx_models.publish(tmp_path / "models", "m", model)


def doubled() -> onnx.ModelProto:
    return onnx_models.doubled("batch", "batch")


@both_ways
def test_every_datatype_but_strings_is_computed_with_the_binding_and_kept(publish: Publish, graphs: str) -> None:
    runtime = OnCpu(publish(onnx_models.every_type(strings=False))).bind(8, cuda_graphs=graphs)
    assert runtime.cuda_graphs is (graphs == "on")
    answers = []
    for samples in (8, 3, 1, 5):
        random = np.random.default_rng(samples).integers(0, 2, (samples, 2))
        inputs = {spec.name: random.astype(tensors.DTYPES[spec.datatype]) for spec in runtime.signature.inputs}
        answers.append((inputs, runtime.run(inputs)))
    for inputs, outputs in answers:  # later batches have not overwritten these answers
        for name, array in outputs.items():
            right = inputs[name.replace("out_", "in_")]
            assert array.dtype == right.dtype
            assert array.tolist() == right.tolist()


@both_ways
def test_concurrent_callers_get_their_own_answers(publish: Publish, graphs: str) -> None:
    runtime = OnCpu(publish(doubled())).bind(8, cuda_graphs=graphs, instances=2)

    def ask(number: int) -> bool:
        sent = np.full((1 + number % 9, 2), number, np.float32)
        return bool((runtime.run({"x": sent})["y"] == 2 * sent).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(400)))
    assert runtime.io_binding_failures == 0


@both_ways
def test_values_that_the_model_refuses_fail_that_batch_only_and_keep_the_binding(publish: Publish, graphs: str) -> None:
    on_cpu = OnCpu(publish(onnx_models.gather()))
    runtime = on_cpu.bind(4, cuda_graphs=graphs)
    with structlog.testing.capture_logs() as log:
        for _ in range(3):
            with pytest.raises(InvalidValuesError, match="idx=99"):
                runtime.run({"index": np.array([1, 99])})
            assert runtime.run({"index": np.array([3, 2, 1])})["value"].tolist() == [30, 20, 10]
    assert on_cpu.used_for({"index": np.array([1])}) == ["graphs bound" if graphs == "on" else "session bound"]
    assert (runtime.io_binding_failures, log) == (0, [])


@pytest.mark.parametrize("binding", [False, True], ids=["session", "binding"])
def test_while_a_batch_is_computed_other_threads_run(publish: Publish, binding: bool) -> None:
    layers = " ".join(f"x{i + 1} = MatMul(x{i}, w)" for i in range(20))
    text = f"(float[batch, 1000] x) => (float[batch, 1000] x20) {{ x0 = Identity(x) {layers} }}"
    file = publish(from_text(text, w=np.eye(1000, dtype=np.float32)))
    runtime = Runtime(file, provider="cpu")
    if binding:
        runtime.use_io_binding(64, instances=1)
    sent, steps = np.ones((64, 1000), np.float32), 0
    with ThreadPoolExecutor(1) as pool:
        computing = pool.submit(lambda: [runtime.run({"x": sent}) for _ in range(5)])
        while not computing.done():
            steps += 1
        computing.result()
    assert steps > 1000  # if ONNX Runtime held the GIL, this loop would make only a few steps


def ones() -> onnx.ModelProto:
    """A model that answers each sample with two ones."""
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
        (onnx_models.free_axis, "input 'x' has strings, or dynamic axes other than the batch"),
        (ones, "output 'y' has strings, or dynamic axes other than the batch"),
        (onnx_models.text, "input 'text' has strings, or dynamic axes"),
        (onnx_models.unbatched, "the model's requests are not batched"),
    ],
)
def test_a_model_without_fixed_shapes_is_computed_by_its_session(
    publish: Publish, make: Callable[[], onnx.ModelProto], reason: str
) -> None:
    on_cpu = OnCpu(publish(make()))
    assert on_cpu.bind(8).notes["no_io_binding"].startswith(reason)
    on_cpu.runtime.warm_up([1])


def not_a_number(array: Rows) -> Rows:
    return np.full_like(array, np.nan)


def no_memory(_: Rows) -> Rows:
    raise RuntimeError("out of memory")


def roots() -> onnx.ModelProto:
    """A model that answers NaN for positive values."""
    return from_text("(float[batch, 2] x) => (float[batch, 2] y) { negative = Neg(x) y = Sqrt(negative) }")


def thousandths() -> onnx.ModelProto:
    """A model that answers with 1000 times each value, as an integer."""
    return from_text(
        """(float[batch, 2] x) => (int64[batch, 2] y) <float thousand = {1000}> {
            product = Mul(x, thousand)
            y = Cast <to = 7> (product)
        }"""
    )


@pytest.mark.parametrize(
    ("make", "change", "problem"),
    [
        (doubled, no_memory, "out of memory"),
        (doubled, lambda array: array * np.float32(1 + 1e-4), ""),
        (roots, lambda array: array, ""),
        (doubled, lambda array: array * np.float32(1.05), "in a batch of 4, output 'y' differs from the session's"),
        (doubled, lambda array: array[:1], "in a batch of 4, output 'y' differs from the session's"),
        (doubled, not_a_number, "in a batch of 4, output 'y' differs from the session's"),
        (thousandths, lambda array: array, ""),
        (
            thousandths,
            lambda array: array + np.float32(0.0008),
            "in a batch of 4, output 'y' differs from the session's",
        ),
    ],
    ids=[
        "error",
        "rounding",
        "nan in both",
        "values",
        "too few rows",
        "nan",
        "the same whole numbers",
        "others",
    ],
)
def test_buffers_that_give_other_answers_are_not_used(
    publish: Publish, make: Callable[[], onnx.ModelProto], change: Callable[[Any], Any], problem: str
) -> None:
    on_cpu = OnCpu(publish(make()), PROVIDERS[1:])
    on_cpu.session.change = change
    runtime = on_cpu.bind(4, cuda_graphs="off")
    assert runtime.notes.get("no_io_binding", "") == problem
    assert on_cpu.used_for(rows(1)) == ["session run" if problem else "session bound"]
    answers = Runtime(runtime.path, provider="cpu").run(rows(1, 2, 3))["y"]
    np.testing.assert_allclose(runtime.run(rows(1, 2, 3))["y"], answers, rtol=1e-3)


@pytest.mark.parametrize(
    ("version", "reason"), [("", "this ONNX Runtime is built without CUDA"), ("7.5", "libcudart.so.7")]
)
def test_inputs_that_are_not_page_locked_are_in_plain_memory_and_say_why(
    publish: Publish, monkeypatch: pytest.MonkeyPatch, version: str, reason: str
) -> None:
    monkeypatch.setattr("onnxruntime.cuda_version", version)
    runtime = OnCpu(publish(doubled())).bind(4)
    assert runtime.cuda_graphs
    assert reason in runtime.notes["not_page_locked"]


def failing(publish: Publish, graphs: str, fail: Callable[..., object]) -> Runtime:
    """A runtime whose IO binding worked when the model was loaded, but fails now."""
    cuda = OnCpu(publish(onnx_models.gather()))
    runtime = cuda.bind(4, cuda_graphs=graphs, instances=2)
    assert cuda.used_for({"index": np.array([1])}) == ["graphs bound" if graphs == "on" else "session bound"]
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
    assert (line["event"], line["log_level"]) == ("IO binding failed; the model runs without it", "error")
    assert line["file"].endswith("m/1/model.onnx")
    assert "an illegal memory access" in line["reason"]


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
