"""Buffers of fixed sizes: which there are, their memory, what pads them, and the proof of their answers."""

import ctypes
import gc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hangtag.serving.server.runtime import verification
from hangtag.serving.server.runtime.arrays import pad, random_rows
from hangtag.serving.server.runtime.batch_buckets import bucket_for, bucket_sizes, no_fixed_shapes_because
from hangtag.serving.server.runtime.io_binding import BufferPool
from hangtag.serving.server.runtime.pinned_memory import PinnedMemory
from hangtag.serving.server.runtime.verification import Verification, seconds
from hangtag.serving.signature import Signature, TensorSpec


def test_padding_repeats_the_last_row_over_whatever_was_there() -> None:
    target = np.full((4, 2), 9)
    pad(target, np.array([[1, 2], [3, 4]]))
    assert target.tolist() == [[1, 2], [3, 4], [3, 4], [3, 4]]
    pad(target, np.array([[5, 6]] * 4))
    assert target.tolist() == [[5, 6]] * 4


@pytest.mark.parametrize(
    ("dtype", "lowest", "highest"), [("float16", 0, 1), ("uint8", 0, 255), ("int64", 0, 1), ("bool", 0, 1)]
)
def test_random_rows_are_in_range_and_differ_by_seed(dtype: str, lowest: int, highest: int) -> None:
    rows, others = (random_rows((5, 20), np.dtype(dtype), seed) for seed in (1, 2))
    assert rows.dtype == dtype
    assert rows.min() >= lowest
    assert rows.max() <= highest
    assert (rows != others).any()


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (64, (1, 2, 4, 8, 16, 32, 64)), (65, (1, 2, 4, 8, 16, 32, 64, 65))],
)
def test_the_sizes_double_up_to_the_largest(largest: int, sizes: tuple[int, ...]) -> None:
    assert bucket_sizes(largest) == sizes


@given(st.integers(1, 4096), st.data())
def test_every_batch_fits_and_less_than_half_is_padding(largest: int, data: st.DataObject) -> None:
    sizes = bucket_sizes(largest)
    samples = data.draw(st.integers(1, largest))
    size = bucket_for(sizes, samples)
    assert size is not None
    assert samples <= size < 2 * samples
    assert bucket_for(sizes, largest + 1) is None
    assert sorted(set(sizes)) == list(sizes)


def spec(name: str, *shape: int | None, datatype: str = "FP32") -> TensorSpec:
    return TensorSpec(name, datatype, shape, ("batch", *[None] * (len(shape) - 1))[: len(shape)])


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        ([spec("x", None, 2)], [spec("y", None, 3), spec("z", None)], None),
        ([spec("x", 4)], [spec("y", 4)], "its requests are not joined"),
        ([spec("x", None, None)], [spec("y", None)], "input 'x' has free axes besides the batch"),
        ([spec("x", None)], [spec("y", None, None)], "output 'y' has free axes"),
        ([spec("x", None, datatype="BYTES")], [spec("y", None)], "input 'x' has strings"),
    ],
)
def test_whether_the_batch_size_determines_every_buffers_size(
    inputs: list[TensorSpec], outputs: list[TensorSpec], reason: str | None
) -> None:
    problem = no_fixed_shapes_because(Signature(tuple(inputs), tuple(outputs)))
    assert problem is None if reason is None else problem is not None and problem.startswith(reason)


def cudart() -> str:
    """The version of the CUDA runtime that is installed here; empty where there is none."""
    for major in ("13", "12"):
        try:
            ctypes.CDLL(f"libcudart.so.{major}")
        except OSError:
            continue
        return f"{major}.0"
    return ""


@pytest.mark.parametrize("version", ["", "7.5"])
def test_without_cuda_the_memory_is_plain_and_says_why(version: str) -> None:
    memory = PinnedMemory(version)
    array = memory.zeros((3, 4), np.dtype("float16"))
    assert array.shape == (3, 4)
    assert array.dtype == np.float16
    assert array.flags.writeable
    assert not array.any()
    assert ("libcudart.so.7" if version else "built without CUDA") in memory.problem


@pytest.mark.parametrize("shape", [(), (1,), (2, 0), (5000, 3)])
def test_arrays_of_every_shape_are_on_pages_of_their_own(shape: tuple[int, ...]) -> None:
    array = PinnedMemory("").zeros(shape, np.dtype("int32"))
    assert array.shape == shape
    assert array.size == 0 or array.ctypes.data % 4096 == 0


@pytest.mark.skipif(not cudart(), reason="the CUDA runtime is not installed here")
def test_with_the_cuda_runtime_pages_are_locked_or_the_problem_names_the_error() -> None:
    memory = PinnedMemory(cudart())
    array = memory.zeros((1000,), np.dtype("float32"))
    array[:] = 1
    assert array.sum() == 1000
    devices = ctypes.c_int(0)
    library = ctypes.CDLL(f"libcudart.so.{cudart().partition('.')[0]}")
    has_gpu = library.cudaGetDeviceCount(ctypes.byref(devices)) == 0 and devices.value > 0
    assert bool(memory.problem) is not has_gpu
    assert has_gpu or "cudaHostRegister failed with CUDA's error" in memory.problem
    del array
    gc.collect()  # unlocked, where it was locked


SIGNATURE = Signature((TensorSpec("x", "FP32", (None, 2)),), (TensorSpec("y", "FP32", (None, 2)),))


class Computes(BufferPool):
    """A pool that computes y by a function of the test."""

    def __init__(self, compute: Any) -> None:
        super().__init__((1, 2, 4), lambda size: None, instances=0)  # type: ignore[arg-type, return-value]
        self._compute = compute

    def run(self, inputs: Any) -> Any:
        return {"y": self._compute(inputs["x"])}


def problem(compute: Any, reference: Any = lambda x: 2 * x) -> str:
    verification = Verification(SIGNATURE, lambda inputs: {"y": reference(inputs["x"])})
    pool, reason = verification.verified(lambda: Computes(compute))
    assert (pool is None) is bool(reason)
    return reason


def test_rounding_is_not_a_difference() -> None:
    assert problem(lambda x: 2 * x) == ""
    assert problem(lambda x: 2 * x + 1e-4) == ""
    assert problem(lambda x: x + np.nan, lambda x: x + np.nan) == ""


def test_a_graph_that_reads_the_inputs_of_its_capture_is_refused() -> None:
    captured: dict[int, Any] = {}

    def replayed(x: Any) -> Any:
        return 2 * captured.setdefault(len(x), x)

    assert problem(replayed) == "output 'y' differs from the session's with 1 samples"


@pytest.mark.parametrize(
    "wrong",
    [lambda x: 2 * x[::-1] if len(x) > 1 else 2 * x, lambda x: 2 * x[:1], lambda x: x + np.nan, lambda x: 2.1 * x],
    ids=["other rows", "too few", "nan", "values"],
)
def test_wrong_answers_are_refused(wrong: Any) -> None:
    assert "differs from the session's" in problem(wrong)


def test_whole_numbers_must_be_equal() -> None:
    def rounded(x: Any) -> Any:
        return (100 * x).astype(np.int64)

    assert problem(rounded, rounded) == ""
    assert (
        problem(lambda x: rounded(x) + (len(x) == 4), rounded) == "output 'y' differs from the session's with 4 samples"
    )


def test_every_exception_is_a_reason() -> None:
    def fails(x: Any) -> Any:
        raise ValueError("no such kernel")

    assert problem(fails) == "no such kernel"


def test_the_shortest_run_of_each_batch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    milliseconds = [0, 3, 0, 1, *[0, 4] * 5, 0, 2, *[0, 4] * 6]
    ticks = iter((np.cumsum(milliseconds) / 1e3).tolist())
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    assert seconds(lambda inputs: {}, [{}, {}]) == pytest.approx(0.001 + 0.002)


def test_a_slow_model_is_run_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 5.0, 5.0, 9.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    assert seconds(lambda inputs: {}, [{}]) == 4


@pytest.mark.parametrize(("share", "faster"), [(1.5, True), (0.1, False)])
def test_faster_means_less_than_a_share_of_the_others_time(
    monkeypatch: pytest.MonkeyPatch, share: float, faster: bool
) -> None:
    monkeypatch.setattr(verification, "seconds", lambda compute, batches: float(len(batches)))
    pool = Computes(lambda x: x)
    assert Verification(SIGNATURE, lambda inputs: inputs).is_faster(pool, pool, share) is faster
