"""Nothing that the server admits ends ONNX Runtime's process."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from hangtag.serving.server.runtime.session import Runtime
from tests.kit import onnx_models
from tests.kit.forkserver import Forked
from tests.kit.onnx_models import from_text
from tests.serving.server.runtime.empty_variants import run_all

SESSION = "onnxruntime.capi.onnxruntime_inference_collection.Session"


def test_no_admitted_operator_ends_the_process(tmp_path: Path) -> None:
    with Forked(run_all, tmp_path) as child:
        assert child.wait(120) == 0, child.stderr.read()


LSTM = "LSTM <hidden_size = 2> (x, w, r)"
WEIGHTS = {"w": np.ones((1, 8, 3), np.float32), "r": np.ones((1, 8, 2), np.float32)}
Y = "float[length, 1, batch, 2] y"


def in_a_branch() -> onnx.ModelProto:
    then, otherwise = (f"{name} () => (float[a, b, c, d] {name}) {{ {name} = {LSTM} }}" for name in ("one", "other"))
    choice = f"y = If (c) <then_branch = {then}, else_branch = {otherwise}>"
    return from_text(f"(float[length, batch, 3] x, bool c) => ({Y}) {{ {choice} }}", **WEIGHTS)


def in_a_function() -> onnx.ModelProto:
    model = onnx_models.recurrent()
    (lstm,) = model.graph.node
    opset = helper.make_opsetid("", onnx_models.OPSET)
    model.functions.append(helper.make_function("my", "Mine", ["x", "w", "r"], ["y"], [lstm], [opset]))
    return calling(model, "Mine", "my")


def not_tried() -> onnx.ModelProto:
    """An operator of ONNX Runtime's own, which the server does not admit."""
    model = from_text("(float[n, 2, 2] x) => (float[n, 2, 2] y) { y = Neg(x) }")
    return calling(model, "Inverse", "com.microsoft")


def calling(model: onnx.ModelProto, operator: str, domain: str) -> onnx.ModelProto:
    """The model with an operator of another domain in place of its only one."""
    (node,) = model.graph.node
    node.CopyFrom(helper.make_node(operator, node.input, node.output, domain=domain))
    model.opset_import.append(helper.make_opsetid(domain, 1))
    return model


def with_a_kernel_from_the_caller() -> onnx.ModelProto:
    return from_text("(float[x, 8, 3, 3] x, float[w, 8, 3, 3] w) => (float[x, w, 1, 1] y) { y = Conv(x, w) }")


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
