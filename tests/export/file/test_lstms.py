"""LSTMs in the graph: nodes around them are removed where they change no answer, and in 8 bits they answer an image
alike in any batch, and on any processor; ONNX Runtime's own quantizer does neither."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from hangtag.export.errors import ExportError
from hangtag.export.file.lstm_simplification import simplify_lstms
from hangtag.export.file.precision import int8_lstms
from hangtag.export.file.precision.int8_lstms import pin_ranges, quantize_lstms
from hangtag.export.file.precision.saturation import quantize
from tests.kit.exported import Garments
from tests.kit.onnx_file import Array, answers, apart
from tests.kit.onnx_models import Shape, model
from tests.kit.shipped import MODELS, latest

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
        before, after = (answers(candidate, STEPS, x=x) for candidate in (original, simplified))
        for name, rows in before.items():
            np.testing.assert_array_equal(after[name], rows)
    return Counter(node.op_type for node in simplified.graph.node)


@pytest.mark.parametrize(
    ("original", "remaining"),
    [
        (recurrent(step=-1), {"LSTM": 1, "Squeeze": 1}),
        (recurrent(step=STEPS - 1), {"LSTM": 1, "Squeeze": 1}),
        (recurrent(step=2), {"LSTM": 1, "Squeeze": 1, "Transpose": 1, "Gather": 1}),
        (recurrent(both=True), {"LSTM": 1, "Squeeze": 2, "Transpose": 1}),
        (recurrent(direction="reverse"), {"LSTM": 1, "Transpose": 2, "Reshape": 1, "Gather": 1}),
    ],
    ids=["the last state", "the last by its number", "another state", "every state too", "reverse, left alone"],
)
def test_the_last_state_is_read_from_the_lstms_own_output(original: onnx.ModelProto, remaining: dict[str, int]) -> None:
    assert simplified_operators(original) == remaining


def test_initial_states_that_are_not_zero_are_kept() -> None:
    counts = simplified_operators(recurrent(start=0.5))
    assert (counts["Expand"], counts["Slice"], counts["Squeeze"]) == (1, 1, 1)


def test_a_shape_that_does_not_only_drop_the_direction_is_kept() -> None:
    """[steps, batch, 1, 4] as [steps, 2 * batch, 2]."""
    original = recurrent()
    (sizes,) = [tensor for tensor in original.graph.initializer if tensor.name == "merged_sizes"]
    sizes.CopyFrom(onnx.numpy_helper.from_array(np.array([STEPS, -1, HIDDEN // 2], np.int64), "merged_sizes"))
    original.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "twice"
    original.graph.output[0].type.tensor_type.shape.dim[1].dim_value = HIDDEN // 2
    assert simplified_operators(original)["Reshape"] == 1


@pytest.fixture(scope="module", params=["lstm", "lstm2"])
def network(request: pytest.FixtureRequest) -> onnx.ModelProto:
    return onnx.load(latest(request.param))


def logits(network: onnx.ModelProto, images: Array, batch: int = 50) -> Array:
    return answers(network, batch, image=images)["logits"]


def by_onnxruntime_alone(network: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    quantize_dynamic(
        network, folder / "int8.onnx", op_types_to_quantize=["LSTM"], per_channel=True, weight_type=QuantType.QInt8
    )
    return onnx.load(folder / "int8.onnx")


def test_pinned_ranges_change_no_answer(network: onnx.ModelProto, few: Garments) -> None:
    pinned = pin_ranges(network)
    onnx.checker.check_model(pinned, full_check=True)
    assert np.abs(logits(pinned, few.images) - logits(network, few.images)).max() <= 1e-4


def test_the_weights_are_in_8_bits_and_the_answers_nearly_those_of_fp32(
    network: onnx.ModelProto, few: Garments
) -> None:
    quantized = quantize_lstms(network)
    onnx.checker.check_model(quantized, full_check=True)
    counts = [
        [node.op_type for node in model.graph.node].count(operator)
        for model, operator in ((network, "LSTM"), (quantized, "DynamicQuantizeLSTM"), (quantized, "LSTM"))
    ]
    assert counts[1:] == [counts[0], 0]
    weights, whole = (sum(tensor.ByteSize() for tensor in model.graph.initializer) for model in (quantized, network))
    assert weights < 0.3 * whole
    expected, actual = logits(network, few.images), logits(quantized, few.images)
    assert (actual.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.99
    largest, typical = apart(actual, expected)
    assert largest <= 0.1  # where a network is steep, between two classes, a few logits move far and all others hardly
    assert typical <= 0.01


@pytest.mark.parametrize("name", ["lstm", "lstm2"])
def test_no_logit_of_a_network_that_is_not_steep_moves_far(name: str, few: Garments) -> None:
    network = onnx.load(MODELS / name / "1" / "model.onnx")
    expected, actual = logits(network, few.images), logits(quantize_lstms(network), few.images)
    assert (actual.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.995
    largest, typical = apart(actual, expected)
    assert largest <= 0.02
    assert typical <= 0.002


def test_an_answer_is_the_same_bit_for_bit_alone_and_among_other_images(
    network: onnx.ModelProto, few: Garments, tmp_path: Path
) -> None:
    """Not so where ONNX Runtime's quantizer takes the ranges from the batch."""
    white = np.full((1, 28, 28), 255, np.uint8)
    images = np.concatenate([few.images[:47], white])
    quantized = quantize_lstms(network)
    alone = logits(quantized, images, 1)
    for size in (2, 7, 48):
        np.testing.assert_array_equal(logits(quantized, images, size), alone)
    theirs = by_onnxruntime_alone(network, tmp_path)
    assert np.abs(logits(theirs, images, 48) - logits(theirs, images, 1)).max() > 1e-3


def test_a_quantizer_that_leaves_an_lstm_as_it_was_is_noticed(
    network: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime's says nothing where it does not find the weights."""
    monkeypatch.setattr(int8_lstms, "quantize_dynamic", lambda model, file, **_: onnx.save(model, file))
    with pytest.raises(ExportError, match=r"left \d LSTMs as they were; their weights must be initializers"):
        int8_lstms.quantize_lstms(network)


# Sums of two products fit into 16 bits, in which processors without 8-bit dot products add them.


def saturates(values: Array) -> bool:
    """Whether 255 times two neighbouring weights of one sign, INT8 [inputs, columns], exceeds 16 bits."""
    pairs = np.pad(values.astype(np.int64), ((0, len(values) % 2), (0, 0))).reshape(-1, 2, values.shape[1])
    largest, smallest = np.clip(pairs, 0, None).sum(axis=1).max(), np.clip(pairs, None, 0).sum(axis=1).min()
    return bool(255 * largest > 32_767 or 255 * smallest < -32_768)


def lstm_weights(model: onnx.ModelProto) -> list[Array]:
    """The INT8 weights [inputs, columns] of every DynamicQuantizeLSTM: of its input, and of its hidden state."""
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "DynamicQuantizeLSTM"]
    return [tensors[node.input[place]][0] for node in nodes for place in (1, 2)]


def test_no_weights_of_a_shipped_network_can_saturate(network: onnx.ModelProto, tmp_path: Path) -> None:
    """With the quantizer's own scales they can."""
    weights = lstm_weights(quantize_lstms(network))
    assert len(weights) in (2, 4)
    assert not any(map(saturates, weights))
    assert any(map(saturates, lstm_weights(by_onnxruntime_alone(pin_ranges(network), tmp_path))))


@pytest.mark.parametrize("rows", [1, 2, 29, 186])
def test_no_two_products_exceed_16_bits_and_each_weight_is_within_half_a_step(rows: int) -> None:
    weights = np.random.default_rng(rows).standard_t(3, (rows, 64)).astype(np.float32)
    values, scales = quantize(weights)
    assert values.dtype == np.int8
    assert not saturates(values)
    assert (np.abs(values * scales - weights) <= scales / 2 * 1.0001).all()


def test_a_column_that_cannot_saturate_keeps_all_8_bits_and_zeros_stay_zero() -> None:
    values, scales = quantize(np.array([[1.0, 1.0, 0.0], [-1.0, 1.0, 0.0]], np.float32))
    assert values.tolist() in ([[127, 64, 0], [-127, 64, 0]], [[127, 63, 0], [-127, 63, 0]])
    assert scales[:2] == pytest.approx([1 / 127, 2 / 127])
    assert scales[2] > 0
