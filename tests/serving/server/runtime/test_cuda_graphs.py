"""Which batches use CUDA graphs. Real CPU sessions, which capture no graphs, take the place of a GPU."""

import threading
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kit import onnx_models
from tests.kit.shipped import latest
from tests.serving.server.runtime.seen_sessions import Compute, OnCpu, rows


@pytest.fixture
def doubled(tmp_path: Path) -> Path:
    """The file of a model that doubles its input."""
    return onnx_models.publish(tmp_path / "models", "m", onnx_models.doubled("batch", "batch"))


@pytest.mark.parametrize(
    ("name", "provider", "reason"),
    [
        ("cnn", "CPUExecutionProvider", "only CUDAExecutionProvider supports CUDA graphs, not CPUExecutionProvider"),
        ("lstm", "CUDAExecutionProvider", "the model has LSTM, which reads the host's memory in every run"),
    ],
)
def test_without_graphs_pinned_inputs_are_used(name: str, provider: str, reason: str) -> None:
    on_cpu = OnCpu(latest(name), [provider])
    runtime = on_cpu.bind(8)
    assert runtime.notes["no_cuda_graphs"] == reason
    assert not runtime.cuda_graphs
    assert on_cpu.used_for({"image": np.zeros((3, 28, 28), np.uint8)}) == ["session bound"]


def fail(*_: object) -> None:
    raise RuntimeError("operation not permitted when stream is capturing")


def first_batch_alone(compute: Compute) -> Compute:
    """Compute the first batch of each graph, and repeat its answer for all later batches."""
    captured: list[Any] = []

    def capture(binding: Any, *options: Any) -> None:
        if binding not in captured:
            captured.append(binding)
            compute(binding, *options)

    return capture


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _: fail, "operation not permitted when stream is capturing"),
        (first_batch_alone, "in a batch of 1, output 'y' differs from the session's"),
    ],
    ids=["fails", "reads the inputs of its capture"],
)
def test_after_a_capture_that_fails_or_answers_wrongly_pinned_inputs_are_used(
    doubled: Path, change: Callable[[Compute], Compute], reason: str
) -> None:
    cuda = OnCpu(doubled)
    cuda.graphs.compute = change(cuda.graphs.compute)
    runtime = cuda.bind(4)
    assert runtime.notes["no_cuda_graphs"] == reason
    assert not runtime.cuda_graphs
    assert cuda.used_for(rows(1, 2, 3)) == ["session bound"]
    assert runtime.run(rows(1, 2, 3))["y"].tolist() == [[2, 2], [4, 4], [6, 6]]


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
    doubled: Path, largest: int, groups: list[list[int]]
) -> None:
    cuda = OnCpu(doubled)
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
    for samples in range(1, largest + 2):  # the last batch is too large for every captured CUDA graph
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
    doubled: Path,
    monkeypatch: pytest.MonkeyPatch,
    pinned: list[float],
    graphs: list[float],
    faster: bool,
    runs: int,
) -> None:
    """The listed times apply to a session's batches in this order. The clock advances only while a session computes."""
    now, computed = 0.0, []
    cuda = OnCpu(doubled)

    def timed(compute: Compute, milliseconds: list[float]) -> Compute:
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
    assert computed.count(pinned) == 2 + runs  # the runtime first verifies the answers to two batches
    assert runtime.cuda_graphs is faster
    used = "graphs" if faster else "session"
    assert [cuda.used_for(rows(1)), cuda.used_for(rows(1, 2))] == [[f"{used} bound"], [f"{used} run"]]
    assert runtime.notes.get("no_cuda_graphs") == (None if faster else "graphs are not faster here")
    assert runtime.run(rows(1))["y"].tolist() == [[2, 2]]
