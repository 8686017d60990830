"""ReLU and pooling commute bit for bit, and each conversion puts them into the faster order."""

import itertools

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from hangtag.export.file import torch_export
from hangtag.export.file.precision import convert
from hangtag.export.file.precision.int8_convolutions import _reorder_pooling
from hangtag.export.file.torch_export import OPSET
from hangtag.export.network.served_network import SingleLabel
from hangtag.training.catalog import build
from hangtag.training.data.fashion_mnist import Images, Split
from tests.export.file.precision.conftest import apart, logits, shipped

pytestmark = pytest.mark.slow


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node if node.op_type in ("Conv", "Relu", "MaxPool")]


def exchanged(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network with every Conv, Relu, MaxPool as Conv, MaxPool, Relu: the other order that may be met."""
    turned = onnx.ModelProto()
    turned.CopyFrom(model)
    nodes = turned.graph.node
    for first, second in itertools.pairwise(nodes):
        if (first.op_type, second.op_type) == ("Relu", "MaxPool"):
            first.op_type, second.op_type = "MaxPool", "Relu"
            first.attribute.extend(second.attribute)
            second.ClearField("attribute")
    turned.graph.ClearField("value_info")
    return turned


@pytest.mark.parametrize("turn", [False, True])
def test_the_order_changes_no_answer(garments: Split, turn: bool) -> None:
    network = exchanged(shipped("cnn")) if turn else shipped("cnn")
    ordered = _reorder_pooling(network)
    onnx.checker.check_model(ordered, full_check=True)
    np.testing.assert_array_equal(logits(ordered, garments.images), logits(network, garments.images))


@pytest.mark.parametrize("turn", [False, True])
def test_pooling_is_first_in_fp32_and_last_in_8_bits(turn: bool) -> None:
    network = exchanged(shipped("cnn")) if turn else shipped("cnn")
    assert kinds(_reorder_pooling(network))[:8] == [
        "Conv", "MaxPool", "Relu", "Conv", "Relu", "Conv", "Relu", "MaxPool",
    ]  # fmt: skip


def test_both_orders_come_to_the_same_file_but_for_names(calibration: Images, garments: Split) -> None:
    one, other = (convert(network, "int8", calibration) for network in (shipped("cnn"), exchanged(shipped("cnn"))))
    assert kinds(one) == kinds(other)
    np.testing.assert_array_equal(logits(one, garments.images), logits(other, garments.images))


def test_a_residual_network_keeps_its_answers(calibration: Images, garments: Split) -> None:
    """The sum of a residual block reads what its first convolution reads too."""
    torch.manual_seed(0)
    network = torch_export.to_onnx(SingleLabel(build("resnet-28x28")), {})
    quantized = convert(network, "int8", calibration[:16])
    weights = {tensor.name: tensor.data_type for tensor in quantized.graph.initializer}
    scaled = {node.output[0]: node.input[0] for node in quantized.graph.node if node.op_type == "DequantizeLinear"}
    convolutions = [node for node in quantized.graph.node if node.op_type == "Conv"]
    in_8_bits = [weights[scaled[node.input[1]]] == TensorProto.INT8 for node in convolutions if node.input[1] in scaled]
    assert (len(convolutions), in_8_bits) == (9, [True] * 8)  # all but the first
    images = garments.images[:20]
    largest, _ = apart(logits(quantized, images), logits(network, images))
    assert largest < 0.05


def test_a_value_that_is_read_twice_is_left_alone() -> None:
    """The pooled maps are an answer too: they may not become negative ones' zeros."""
    graph = helper.make_graph(
        [
            helper.make_node("MaxPool", ["x"], ["pooled"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Relu", ["pooled"], ["positive"], name="relu"),
            helper.make_node("Neg", ["pooled"], ["negative"], name="neg"),
        ],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 4, 4])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2, 2, 2])
            for name in ("positive", "negative")
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    assert [node.op_type for node in _reorder_pooling(model).graph.node] == ["MaxPool", "Relu", "Neg"]
