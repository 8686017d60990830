"""Whose fault it is that ONNX Runtime fails: the request's, the model's, or the machine's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hangtag.serving.server.errors import InferenceError, InvalidValuesError
from hangtag.serving.server.runtime.session import Runtime
from tests import onnx_models


def sized(*sizes: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.ones(sizes, np.float32)


@pytest.mark.parametrize(
    ("name", "inputs", "words"),
    [
        ("added", {"x": sized(1, 2), "y": sized(1, 3)}, "2 by 3"),
        ("reshaped", {"x": sized(2, 2), "shape": np.array([3, 3])}, "cannot be reshaped"),
        ("reshaped", {"x": sized(2, 2), "shape": np.array([-1, -1])}, "At most one dimension can be -1"),
    ],
)
def test_what_does_not_fit_together_is_the_requests_fault_where_others_are_computed(
    tmp_path: Path, name: str, inputs: dict[str, Any], words: str
) -> None:
    runtime = Runtime(onnx_models.publish(tmp_path, "m", getattr(onnx_models, name)()))
    with pytest.raises(InvalidValuesError, match=f"cannot compute what is in the request: .*{words}"):
        runtime.run(inputs)


def test_what_fails_on_everything_is_not_the_requests_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(onnx_models.publish(tmp_path, "m", onnx_models.added()))

    def broken(*_: object) -> None:
        raise RuntimeError("made up")

    monkeypatch.setattr(runtime, "_run_session", broken)
    with pytest.raises(InferenceError, match="ONNX Runtime failed: made up") as caught:
        runtime.run({"x": sized(1, 2), "y": sized(1, 2)})
    assert type(caught.value) is InferenceError


def test_memory_that_runs_out_is_for_the_operator_to_know(tmp_path: Path) -> None:
    runtime = Runtime(onnx_models.publish(tmp_path, "m", onnx_models.filled()))
    with pytest.raises(InferenceError, match="Failed to allocate memory") as caught:
        runtime.run({"shape": np.array([2**20, 2**20])})
    assert type(caught.value) is InferenceError
