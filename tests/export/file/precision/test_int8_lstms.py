"""An int8 LSTM answers an image alike in any batch; without pinned ranges it does not."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

from hangtag.export.errors import ExportError, GateError
from hangtag.export.file.onnx_model import operators
from hangtag.export.file.precision.int8_lstms import pin_ranges, quantize_lstms
from hangtag.export.gate.checks import batching
from hangtag.export.gate.tolerances import TOLERANCES
from hangtag.serving.server.runtime.session import Runtime
from hangtag.training.data.fashion_mnist import Split
from tests.export.file.precision.conftest import apart, first, logits, shipped

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["lstm", "lstm2"])
def network(request: pytest.FixtureRequest) -> onnx.ModelProto:
    return shipped(request.param)


def check(model: onnx.ModelProto, folder: Path, garments: Split) -> float:
    """Run the batching check; return the largest difference between an image alone and in a batch."""
    file = folder / "model.onnx"
    file.write_bytes(model.SerializeToString())
    other_images = np.concatenate([garments.images[-20:], np.full((1, 28, 28), 255, np.uint8)])
    checked = batching.check(
        Runtime(file, provider="cpu"), garments.images, other_images, TOLERANCES["int8"], spread=25.0
    )
    assert checked.figures["other_top_label"] == 0
    return float(max(checked.figures["max_difference"].values()))


def test_pinning_changes_no_answer(network: onnx.ModelProto, garments: Split) -> None:
    pinned = pin_ranges(network)
    onnx.checker.check_model(pinned, full_check=True)
    difference = np.abs(logits(pinned, garments.images) - logits(network, garments.images)).max()
    assert difference <= 1e-4


def test_the_weights_are_in_8_bits(network: onnx.ModelProto) -> None:
    quantized = quantize_lstms(network)
    counts = operators(quantized)
    assert (counts["LSTM"], counts["DynamicQuantizeLSTM"]) == (0, operators(network)["LSTM"])
    weights, whole = (sum(tensor.ByteSize() for tensor in model.graph.initializer) for model in (quantized, network))
    assert weights < 0.3 * whole
    onnx.checker.check_model(quantized, full_check=True)


def test_answers_are_nearly_those_of_fp32(network: onnx.ModelProto, many: Split) -> None:
    expected, actual = logits(network, many.images), logits(quantize_lstms(network), many.images)
    assert (actual.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.99
    largest, typical = apart(actual, expected)
    assert largest <= 0.1  # where a network is steep, between two classes, a few logits move far and all others hardly
    assert typical <= 0.01


@pytest.mark.parametrize("model", ["lstm", "lstm2"])
def test_no_logit_of_a_network_that_is_not_steep_moves_far(model: str, many: Split) -> None:
    network = first(model)
    expected, actual = logits(network, many.images), logits(quantize_lstms(network), many.images)
    assert (actual.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.995
    largest, typical = apart(actual, expected)
    assert largest <= 0.02
    assert typical <= 0.002


def test_an_answer_is_the_same_bit_for_bit_alone_and_among_other_images(
    network: onnx.ModelProto, garments: Split, tmp_path: Path
) -> None:
    quantized = quantize_lstms(network)
    images = garments.images[:64]
    alone = logits(quantized, images, 1)
    for size in (2, 7, 64):
        np.testing.assert_array_equal(logits(quantized, images, size), alone)
    assert check(quantized, tmp_path, garments) == 0


def test_without_pinned_ranges_the_gate_refuses_it(network: onnx.ModelProto, garments: Split, tmp_path: Path) -> None:
    """The file that ONNX Runtime's quantizer alone makes of the same network."""
    (tmp_path / "fp32.onnx").write_bytes(network.SerializeToString())
    quantize_dynamic(
        tmp_path / "fp32.onnx",
        tmp_path / "int8.onnx",
        op_types_to_quantize=["LSTM"],
        per_channel=True,
        weight_type=QuantType.QInt8,
    )
    with pytest.raises(
        GateError,
        match=r"^batching: logits of an image differ by 0\.\d+ between a batch of 1 and a batch of 2, .*"
        r"the other images of a batch would change an answer\. Worst at test image \d+\. Nothing was published\.",
    ):
        check(onnx.load(tmp_path / "int8.onnx"), tmp_path, garments)


def test_weights_that_the_quantizer_cannot_find_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind an Identity it says nothing and does nothing."""
    network = shipped("lstm")
    pinned = pin_ranges(network)
    (node,) = [node for node in pinned.graph.node if node.op_type == "LSTM"]
    hidden = onnx.helper.make_node("Identity", [node.input[1]], ["computed"])
    node.input[1] = "computed"
    pinned.graph.node.insert(0, hidden)
    monkeypatch.setattr("hangtag.export.file.precision.int8_lstms.pin_ranges", lambda model: pinned)
    with pytest.raises(ExportError, match="left 1 LSTMs as they were; their weights must be initializers"):
        quantize_lstms(network)
