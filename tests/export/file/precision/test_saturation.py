"""8-bit weights whose sums of two products fit into 16 bits, as processors without 8-bit dot products add them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from hangtag.export.arrays import Array
from hangtag.export.file.precision.int8_lstms import pin_ranges, quantize_lstms
from hangtag.export.file.precision.saturation import quantize
from tests.export.file.precision.conftest import shipped

pytestmark = pytest.mark.slow


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


@pytest.mark.parametrize("rows", [1, 2, 29, 186])
def test_no_two_products_exceed_16_bits_and_each_weight_is_within_half_a_step(rows: int) -> None:
    weights = np.random.default_rng(rows).standard_t(3, (rows, 64)).astype(np.float32)
    values, scales = quantize(weights)
    assert values.dtype == np.int8
    assert not saturates(values)
    assert np.abs(values * scales - weights).max(axis=0) == pytest.approx(0, abs=float(scales.max()) / 2)
    assert (np.abs(values * scales - weights) <= scales / 2 * 1.0001).all()


def test_a_column_that_cannot_saturate_keeps_all_8_bits() -> None:
    weights = np.array([[1.0, 1.0], [-1.0, 1.0]], np.float32)
    values, scales = quantize(weights)
    assert values.tolist() == [[127, 64], [-127, 64]] or values.tolist() == [[127, 63], [-127, 63]]
    assert scales == pytest.approx([1 / 127, 2 / 127])


def test_a_column_of_zeros_stays_zero() -> None:
    values, scales = quantize(np.zeros((3, 2), np.float32))
    assert not values.any()
    assert (scales > 0).all()


@pytest.mark.parametrize("name", ["lstm", "lstm2"])
def test_the_shipped_networks_weights_cannot_saturate(name: str) -> None:
    weights = lstm_weights(quantize_lstms(shipped(name)))
    assert len(weights) == {"lstm": 2, "lstm2": 4}[name]
    assert not any(map(saturates, weights))


def test_the_quantizers_own_scales_saturate(tmp_path: Path) -> None:
    """Otherwise there would be nothing to prevent."""
    quantize_dynamic(
        pin_ranges(shipped("lstm")), tmp_path / "int8.onnx", op_types_to_quantize=["LSTM"], per_channel=True,
        weight_type=QuantType.QInt8,
    )  # fmt: skip
    assert any(map(saturates, lstm_weights(onnx.load(tmp_path / "int8.onnx"))))
