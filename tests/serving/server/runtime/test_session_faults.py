"""Which errors of ONNX Runtime are the request's fault, and which the model's or the machine's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hangtag.serving.server.errors import InferenceError, InvalidValuesError
from hangtag.serving.server.runtime.session import Runtime
from tests.kit import onnx_models


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
def test_inputs_that_do_not_fit_together_are_the_requests_fault_if_zeros_are_computed(
    tmp_path: Path, name: str, inputs: dict[str, Any], words: str
) -> None:
    runtime = Runtime(onnx_models.publish(tmp_path, "m", getattr(onnx_models, name)()))
    with pytest.raises(InvalidValuesError, match=f"cannot compute what is in the request: .*{words}"):
        runtime.run(inputs)


def test_a_model_that_fails_on_zeros_too_is_not_the_requests_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime(onnx_models.publish(tmp_path, "m", onnx_models.added()))

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(runtime, "_run_session", broken)
    with pytest.raises(InferenceError, match="ONNX Runtime failed: broken") as caught:
        runtime.run({"x": sized(1, 2), "y": sized(1, 2)})
    assert type(caught.value) is InferenceError


def test_running_out_of_memory_is_not_the_requests_fault(tmp_path: Path) -> None:
    runtime = Runtime(onnx_models.publish(tmp_path, "m", onnx_models.filled()))
    with pytest.raises(InferenceError, match="Failed to allocate memory") as caught:
        runtime.run({"shape": np.array([2**20, 2**20])})
    assert type(caught.value) is InferenceError
