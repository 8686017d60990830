"""LSTMs in the graph: nodes around an LSTM are removed if they do not affect the answers. In 8 bits, LSTMs give an
image the same answer in any batch and on any processor."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from hangtag.export.file import torch_export
from hangtag.export.network import ServedNetwork
from hangtag.export.quantization.precision import convert
from hangtag.serving.signature import TensorSpec
from hangtag.training.data import fashion_mnist
from tests.kit.exported import Garments
from tests.kit.onnx_file import Array, answers, apart
from tests.kit.shipped import MODELS, latest

pytestmark = pytest.mark.slow

HIDDEN = 4
KINDS = ("last", "middle", "every", "started", "backward")


class Lstms(ServedNetwork):
    """Five LSTMs, whose outputs are the last state, a middle state, all states, the last state from a non-zero initial
    state, and the last states of a bidirectional LSTM."""

    outputs = tuple(TensorSpec(kind, "FP32", (None, HIDDEN)) for kind in KINDS)

    def __init__(self) -> None:
        super().__init__(
            nn.ModuleDict(
                {kind: nn.LSTM(28, HIDDEN, batch_first=True, bidirectional=kind == "backward") for kind in KINDS}
            ),
            fashion_mnist.IMAGE,
        )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        pixels = image.float() / 255
        assert isinstance(self.network, nn.ModuleDict)
        beginning = torch.full((1, image.shape[0], HIDDEN), 0.5)
        states = {kind: lstm(pixels)[0] for kind, lstm in self.network.items() if kind != "started"}
        started, _ = self.network["started"](pixels, (beginning, beginning))
        return states["last"][:, -1], states["middle"][:, 9], states["every"], started[:, -1], states["backward"][:, -1]


def test_nodes_around_lstms_are_removed_where_they_change_no_answer(few: Garments) -> None:
    torch.manual_seed(0)
    network = Lstms()
    exported = torch_export.to_onnx(network, "lstms")
    with torch.inference_mode():
        expected = dict(zip(KINDS, network(torch.tensor(few.images[:20])), strict=True))
    actual = answers(exported, 3, image=few.images[:20])
    for kind in KINDS:
        np.testing.assert_allclose(actual[kind], expected[kind].numpy(), atol=1e-5)
    counts = Counter(node.op_type for node in exported.graph.node)
    assert counts["LSTM"] == 5
    assert counts["Squeeze"] == 4  # Squeeze drops the direction axis of a one-directional LSTM
    assert counts["Gather"] == 2  # Gather selects a middle state, or the last states of two directions
    with_states = [node for node in exported.graph.node if node.op_type == "LSTM" and len(node.input) > 5]
    assert len(with_states) == 1


@pytest.fixture(scope="module", params=["lstm", "lstm2"])
def network(request: pytest.FixtureRequest) -> onnx.ModelProto:
    return onnx.load(latest(request.param))


@pytest.fixture(scope="module")
def quantized(network: onnx.ModelProto, few: Garments) -> onnx.ModelProto:
    return convert(network, "int8", few.images, fashion_mnist.IMAGE)


def logits(network: onnx.ModelProto, images: Array, batch: int = 50) -> Array:
    return answers(network, batch, image=images)["logits"]


def test_the_weights_are_in_8_bits_and_the_answers_nearly_those_of_fp32(
    network: onnx.ModelProto, quantized: onnx.ModelProto, few: Garments
) -> None:
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
    assert largest <= 0.1  # the network is sensitive, so rounding may change a few logits considerably
    assert typical <= 0.01


@pytest.mark.parametrize("name", ["lstm", "lstm2"])
def test_no_logit_of_a_network_that_is_not_steep_moves_far(name: str, few: Garments) -> None:
    network = onnx.load(MODELS / name / "1" / "model.onnx")
    expected, actual = (
        logits(network, few.images),
        logits(convert(network, "int8", few.images, fashion_mnist.IMAGE), few.images),
    )
    assert (actual.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.995
    largest, typical = apart(actual, expected)
    assert largest <= 0.02
    assert typical <= 0.002


def test_an_answer_is_the_same_bit_for_bit_alone_and_among_other_images(
    quantized: onnx.ModelProto, few: Garments
) -> None:
    """The answers would differ if the range of the values were taken from the whole batch."""
    white = np.full((1, 28, 28), 255, np.uint8)
    images = np.concatenate([few.images[:47], white])
    alone = logits(quantized, images, 1)
    for size in (2, 7, 48):
        np.testing.assert_array_equal(logits(quantized, images, size), alone)


def test_no_weights_can_saturate_and_each_is_within_half_a_step(
    network: onnx.ModelProto, quantized: onnx.ModelProto
) -> None:
    """Some processors add two 8-bit products in 16 bits, so each such sum must fit into 16 bits."""
    fp32, int8 = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for model in (network, quantized)
    )
    lstms = [node for node in network.graph.node if node.op_type == "LSTM"]
    in_8_bits = [node for node in quantized.graph.node if node.op_type == "DynamicQuantizeLSTM"]
    for before, after in zip(lstms, in_8_bits, strict=True):
        for place, scale_place in ((1, 8), (2, 10)):  # the weights of the input and of the hidden state
            values, scales = int8[after.input[place]][0].astype(np.int64), int8[after.input[scale_place]].reshape(-1)
            pairs = np.pad(values, ((0, len(values) % 2), (0, 0))).reshape(-1, 2, values.shape[1])
            sums = [np.clip(sign * pairs, 0, None).sum(axis=1).max(axis=0) for sign in (1, -1)]
            assert np.max(sums) * 255 <= 32_767
            used = np.maximum(np.max(sums, axis=0), np.abs(values).max(axis=0))
            assert set(used[used > 0] >= 126) == {True}  # each column uses the whole range that is allowed
            assert (scales > 0).all()

            weights = fp32[before.input[place]][0]  # [4 * units, inputs]; int8's weights have padding
            units, inputs = len(weights) // 4, weights.shape[1]
            answered = (values * scales).reshape(len(values), 4, -1)[:inputs, :, :units].reshape(inputs, -1)
            steps = scales.reshape(4, -1)[:, :units].reshape(-1)
            assert (np.abs(answered - weights.T) <= steps / 2 * 1.0001).all()
