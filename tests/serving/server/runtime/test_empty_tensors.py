"""Nothing that the server admits ends ONNX Runtime's process."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hangtag.serving.server.runtime.session import Runtime
from tests.kit import onnx_models
from tests.serving.server.runtime.empty_variants import FATAL, OPERATORS

SESSION = "onnxruntime.capi.onnxruntime_inference_collection.Session"


def test_no_admitted_operator_ends_the_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.serving.server.runtime.empty_variants", str(tmp_path)]
    child = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert child.returncode == 0, child.stderr
    counts = json.loads(child.stdout)
    assert all(admitted for name, (admitted, _) in counts.items() if name in OPERATORS), counts
    assert all(not counts[name][0] for name in FATAL), counts
    assert sum(answered for _, answered in counts.values()) > 300


WEIGHTS: dict[str, Any] = {"w": np.ones((1, 8, 3), np.float32), "r": np.ones((1, 8, 2), np.float32)}
INPUTS: dict[str, Any] = {"x": (TensorProto.FLOAT, ["length", "batch", 3])}
OUTPUTS: dict[str, Any] = {"y": (TensorProto.FLOAT, ["length", 1, "batch", 2])}


def lstm(output: str) -> onnx.NodeProto:
    return helper.make_node("LSTM", ["x", "w", "r"], [output], hidden_size=2)


def in_a_branch() -> onnx.ModelProto:
    branches = [
        helper.make_graph([lstm(name)], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])
        for name in ("a", "b")
    ]
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
    return onnx_models.model([choice], INPUTS | {"c": (TensorProto.BOOL, [])}, OUTPUTS, WEIGHTS)


def in_a_function() -> onnx.ModelProto:
    call = helper.make_node("Mine", ["x", "w", "r"], ["y"], domain="my")
    model = onnx_models.model([call], INPUTS, OUTPUTS, WEIGHTS)
    opset = helper.make_opsetid("", onnx_models.OPSET)
    model.functions.append(helper.make_function("my", "Mine", ["x", "w", "r"], ["y"], [lstm("y")], [opset]))
    model.opset_import.append(helper.make_opsetid("my", 1))
    return model


def not_tried() -> onnx.ModelProto:
    """An operator of ONNX Runtime's own, which the server does not admit."""
    shape: list[int | str] = ["n", 2, 2]
    model = onnx_models.mapped([helper.make_node("Inverse", ["x"], ["y"], domain="com.microsoft")], shape)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def with_a_kernel_from_the_caller() -> onnx.ModelProto:
    inputs: dict[str, Any] = {name: (TensorProto.FLOAT, [name, 8, 3, 3]) for name in ("x", "w")}
    outputs: dict[str, Any] = {"y": (TensorProto.FLOAT, ["x", "w", 1, 1])}
    return onnx_models.model([helper.make_node("Conv", ["x", "w"], ["y"])], inputs, outputs)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (onnx_models.recurrent, "LSTM"),
        (in_a_branch, "LSTM"),
        (in_a_function, "LSTM"),
        (not_tried, "com.microsoft.Inverse"),
        (with_a_kernel_from_the_caller, "an input may be a parameter of Conv"),
    ],
)
def test_what_is_refused_is_found_wherever_it_is(
    make: Callable[[], onnx.ModelProto], reason: str, tmp_path: Path
) -> None:
    runtime = Runtime(onnx_models.publish(tmp_path, "m", make()), provider="cpu")
    assert reason in runtime.no_empty_because


def test_no_empty_tensor_is_admitted_where_onnx_runtime_does_not_report_the_operators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the oldest releases that hangtag takes."""
    file = onnx_models.publish(tmp_path, "m", onnx_models.free_axis())
    assert Runtime(file, provider="cpu").no_empty_because == ""
    monkeypatch.delattr(f"{SESSION}.get_provider_graph_assignment_info")
    assert "does not report" in Runtime(file, provider="cpu").no_empty_because
