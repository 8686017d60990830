"""Nodes around an LSTM are removed where they change no answer, and stay where they do."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from hangtag.export.file.lstm_simplification import simplify_lstms
from hangtag.export.file.onnx_model import operators
from tests.export.exported import Exported
from tests.kit.onnx_models import Shape, model

pytestmark = pytest.mark.slow

STEPS, INPUTS, HIDDEN = 5, 3, 4


def recurrent(*, start: float = 0.0, step: int = -1, direction: str = "forward", both: bool = False) -> onnx.ModelProto:
    """x FP32 [steps, batch, 3] -> the state after a step [batch, 4], as PyTorch's exporter writes nn.LSTM.

    start: what the initial states are filled with; both: every state is an answer too, [batch, steps, 4].
    """
    random = np.random.default_rng(0)
    axes = {"one": 1, "two": 2, "hidden": HIDDEN}
    nodes = [
        helper.make_node("Shape", ["x"], ["batch"], start=1, end=2),
        helper.make_node("Concat", ["one", "batch", "hidden"], ["sizes"], axis=0),
        helper.make_node("Expand", ["start", "sizes"], ["states"]),
        helper.make_node("Slice", ["states", "zero", "one", "zero"], ["state"]),
        helper.make_node(
            "LSTM", ["x", "w", "r", "", "", "state", "state"], ["y"], hidden_size=HIDDEN, direction=direction
        ),
        helper.make_node("Transpose", ["y"], ["turned"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["turned", "merged_sizes"], ["merged"]),
        helper.make_node("Transpose", ["merged"], ["every"], perm=[1, 0, 2]),
        helper.make_node("Gather", ["every", "step"], ["last"], axis=1),
    ]
    outputs: dict[str, tuple[int, Shape]] = {"last": (TensorProto.FLOAT, ["batch", HIDDEN])}
    if both:
        outputs["every"] = (TensorProto.FLOAT, ["batch", STEPS, HIDDEN])
    return model(
        nodes,
        {"x": (TensorProto.FLOAT, [STEPS, "batch", INPUTS])},
        outputs,
        {
            "start": np.full((), start, np.float32),
            "w": random.normal(size=(1, 4 * HIDDEN, INPUTS)).astype(np.float32),
            "r": random.normal(size=(1, 4 * HIDDEN, HIDDEN)).astype(np.float32),
            "merged_sizes": np.array([STEPS, -1, HIDDEN], np.int64),
            "step": np.array(step, np.int64),
            "zero": np.array([0], np.int64),
            **{name: np.array([value], np.int64) for name, value in axes.items()},
        },
    )


def simplified_operators(original: onnx.ModelProto) -> Counter[str]:
    """Simplify the model, require the same answers bit for bit, and return the remaining operators."""
    simplified = onnx.ModelProto()
    simplified.CopyFrom(original)
    simplify_lstms(simplified)
    onnx.checker.check_model(simplified, full_check=True)
    for batch in (1, 3):
        x = np.random.default_rng(batch).normal(size=(STEPS, batch, INPUTS)).astype(np.float32)
        answers = [
            onnxruntime.InferenceSession(candidate.SerializeToString(), providers=["CPUExecutionProvider"]).run(
                None, {"x": x}
            )
            for candidate in (original, simplified)
        ]
        for before, after in zip(*answers, strict=True):
            np.testing.assert_array_equal(after, before)
    return operators(simplified)


@pytest.mark.parametrize("step", [-1, STEPS - 1])
def test_the_last_state_is_read_from_the_lstms_own_output(step: int) -> None:
    assert simplified_operators(recurrent(step=step)) == {"LSTM": 1, "Squeeze": 1}


def test_any_other_state_is_still_gathered_from_all() -> None:
    assert simplified_operators(recurrent(step=2)) == {"LSTM": 1, "Squeeze": 1, "Transpose": 1, "Gather": 1}


def test_every_state_is_kept_where_it_is_read() -> None:
    assert simplified_operators(recurrent(both=True)) == {"LSTM": 1, "Squeeze": 2, "Transpose": 1}


def test_initial_states_that_are_not_zero_are_kept() -> None:
    counts = simplified_operators(recurrent(start=0.5))
    assert (counts["Expand"], counts["Slice"], counts["Squeeze"]) == (1, 1, 1)


def test_a_reverse_lstm_is_left_alone() -> None:
    assert simplified_operators(recurrent(direction="reverse")) == {
        "LSTM": 1,
        "Transpose": 2,
        "Reshape": 1,
        "Gather": 1,
    }


def test_a_shape_that_does_not_only_drop_the_direction_is_kept() -> None:
    """[steps, batch, 1, 4] as [steps, 2 * batch, 2]."""
    original = recurrent()
    (sizes,) = [tensor for tensor in original.graph.initializer if tensor.name == "merged_sizes"]
    sizes.CopyFrom(onnx.numpy_helper.from_array(np.array([STEPS, -1, HIDDEN // 2], np.int64), "merged_sizes"))
    original.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "twice"
    original.graph.output[0].type.tensor_type.shape.dim[1].dim_value = HIDDEN // 2
    assert simplified_operators(original)["Reshape"] == 1


def test_an_exported_lstm_has_few_other_nodes(exported: Exported) -> None:
    counts = operators(onnx.load(exported.file))
    expected = {
        "lstm": {"Cast": 1, "Div": 1, "Transpose": 1, "LSTM": 1, "Squeeze": 1, "Gemm": 1, "Softmax": 1},
        "lstm2": {"Cast": 1, "Div": 1, "Transpose": 1, "LSTM": 2, "Squeeze": 2, "Gemm": 1, "Softmax": 1},
        "cnn": {
            "Cast": 1, "Div": 1, "Unsqueeze": 1, "Conv": 5, "MaxPool": 3, "Relu": 7, "Reshape": 1, "Gemm": 3,
            "Softmax": 1,
        },
    }  # fmt: skip
    assert counts == expected[exported.run.model]
