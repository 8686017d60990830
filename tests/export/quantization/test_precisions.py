"""In each precision, a network keeps its inputs, outputs and metadata, and gives nearly the same answers."""

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from hangtag.export.errors import ExportError
from hangtag.export.file import torch_export
from hangtag.export.network import LabelScores
from hangtag.export.quantization.precision import convert, model_name
from hangtag.training.catalog import build
from hangtag.training.data import fashion_mnist
from tests.kit.exported import Garments
from tests.kit.onnx_file import answers, apart
from tests.kit.onnx_models import classifier, from_text
from tests.kit.shipped import MODELS, latest

pytestmark = pytest.mark.slow


def shipped(name: str) -> onnx.ModelProto:
    """A trained network, in FP32."""
    return onnx.load(latest(name))


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("name", ["lstm", "lstm2", "cnn"])
def test_the_contract_is_kept(name: str, precision: str, garments: Garments) -> None:
    network = shipped(name)
    content = network.SerializeToString()
    assert convert(network, "fp32", garments.images[-96:], fashion_mnist.IMAGE) is network
    converted = convert(network, precision, garments.images[-96:], fashion_mnist.IMAGE)
    assert network.SerializeToString() == content
    for after, before in ((converted.graph.input, network.graph.input), (converted.graph.output, network.graph.output)):
        assert [(value.name, value.type) for value in after] == [(value.name, value.type) for value in before]
    assert converted.metadata_props == network.metadata_props
    assert converted.producer_name == "hangtag"
    used = {node.domain for node in converted.graph.node} | {""}
    assert {opset.domain for opset in converted.opset_import} == used
    onnx.checker.check_model(converted, full_check=True)
    assert [model_name("cnn", each) for each in ("fp32", precision)] == ["cnn", f"cnn-{precision}"]


@pytest.mark.parametrize("name", ["lstm", "cnn"])
def test_fp16_halves_the_file_and_keeps_the_answers(name: str, few: Garments) -> None:
    network = shipped(name)
    converted = convert(network, "fp16", few.images, fashion_mnist.IMAGE)
    weights = [tensor for tensor in converted.graph.initializer if numpy_helper.to_array(tensor).size > 100]
    assert {tensor.data_type for tensor in weights} == {TensorProto.FLOAT16}
    assert converted.ByteSize() < 0.55 * network.ByteSize()
    expected, actual = (answers(each, image=few.images)["logits"] for each in (network, converted))
    assert (actual.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.999
    largest, typical = apart(actual, expected)
    assert 0 < largest <= 1e-2
    assert typical <= 5e-4

    # In this network, rounding changes all logits by similar amounts.
    network = onnx.load(MODELS / name / "1" / "model.onnx")
    converted = convert(network, "fp16", few.images, fashion_mnist.IMAGE)
    assert 0 < apart(*(answers(each, image=few.images)["logits"] for each in (converted, network)))[0] <= 5e-4


def test_int8_quantizes_the_convolutions_for_each_channel_but_the_first_and_nothing_dense(garments: Garments) -> None:
    images = garments.images[:300]
    network = shipped("cnn")
    quantized = convert(network, "int8", garments.images[-96:], fashion_mnist.IMAGE)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    producers = {output: node for node in quantized.graph.node for output in node.output}
    convolutions = [node for node in quantized.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 5
    assert values[convolutions[0].input[1]].shape == (64, 1, 7, 7)  # with one input channel, FP32 is faster than int8
    assert values[convolutions[0].input[1]].dtype == np.float32
    for node in convolutions[1:]:
        weights = producers[node.input[1]]
        assert weights.op_type == "DequantizeLinear"
        assert values[weights.input[0]].dtype == np.int8
        assert len(values[weights.input[1]]) == len(values[weights.input[0]])  # a scale for each channel
        assert producers[node.input[0]].op_type == "DequantizeLinear"
    for node in quantized.graph.node:
        if node.op_type == "Gemm":
            assert values[node.input[1]].dtype == np.float32
    expected, actual = (answers(each, image=images)["logits"] for each in (network, quantized))
    assert (actual.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.99
    np.testing.assert_allclose(answers(quantized, 1, image=images[:100])["logits"], actual[:100], atol=1e-4)


def test_int8_of_a_residual_network_keeps_its_answers(few: Garments) -> None:
    torch.manual_seed(0)
    network = torch_export.to_onnx(LabelScores(build("resnet-28x28"), fashion_mnist.IMAGE, 10), "resnet")
    quantized = convert(network, "int8", few.images[-16:], fashion_mnist.IMAGE)
    weights = {tensor.name: tensor.data_type for tensor in quantized.graph.initializer}
    scaled = {node.output[0]: node.input[0] for node in quantized.graph.node if node.op_type == "DequantizeLinear"}
    convolutions = [node for node in quantized.graph.node if node.op_type == "Conv"]
    in_8_bits = [weights[scaled[node.input[1]]] == TensorProto.INT8 for node in convolutions if node.input[1] in scaled]
    assert (len(convolutions), in_8_bits) == (9, [True] * 8)  # all convolutions except the first
    assert apart(*(answers(each, image=few.images[:20])["logits"] for each in (quantized, network)))[0] < 0.05


def test_int8_of_a_network_without_convolutions_or_lstms_is_refused(few: Garments) -> None:
    with pytest.raises(ExportError, match=r"int8 is for networks with convolutions or LSTMs; this one has only Cast, "):
        convert(classifier(), "int8", few.images, fashion_mnist.IMAGE)


@pytest.mark.parametrize("name", ["lstm", "cnn"])
def test_int8_of_nan_weights_is_refused(name: str, few: Garments) -> None:
    network = shipped(name)
    for tensor in network.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(np.nan), tensor.name))
    with pytest.raises(ExportError, match=r"converter fails on this network \(\w+: .*\)\."):
        convert(network, "int8", few.images, fashion_mnist.IMAGE)


# ReLU and pooling commute, so the conversion to int8 puts them into the faster order.


def kinds(network: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in network.graph.node if node.op_type in ("Conv", "Relu", "MaxPool")]


def exchanged(network: onnx.ModelProto) -> onnx.ModelProto:
    """The network with the order Conv, MaxPool, Relu instead of Conv, Relu, MaxPool."""
    turned = onnx.ModelProto()
    turned.CopyFrom(network)
    for first, second in itertools.pairwise(turned.graph.node):
        if (first.op_type, second.op_type) == ("Relu", "MaxPool"):
            first.op_type, second.op_type = "MaxPool", "Relu"
            first.attribute.extend(second.attribute)
            second.ClearField("attribute")
    turned.graph.ClearField("value_info")
    return turned


def test_the_order_of_relu_and_pooling_changes_no_answer(garments: Garments) -> None:
    """Pooling comes first if it is computed in FP32, and last if it is computed in 8 bits."""
    images = garments.images[:100]
    one, other = (
        convert(each, "int8", garments.images[-96:], fashion_mnist.IMAGE)
        for each in (shipped("cnn"), exchanged(shipped("cnn")))
    )
    assert kinds(one) == kinds(other)
    assert kinds(one)[:3] == ["Conv", "MaxPool", "Relu"]
    assert kinds(one)[3:] == ["Conv", "Conv", "MaxPool", "Conv", "Conv", "MaxPool", "Relu", "Relu"]
    np.testing.assert_array_equal(answers(one, image=images)["logits"], answers(other, image=images)["logits"])


def test_a_value_that_is_read_twice_keeps_its_order() -> None:
    """Neg also reads the pooled maps. If ReLU came before the pooling, these maps would lose their negative values."""
    x: Any = np.random.default_rng(0).normal(size=(32, 2, 4, 4)).astype(np.float32)
    twice = from_text(
        """(float[batch, 2, 4, 4] x) => (float[batch, 2, 2, 2] positive, float[batch, 2, 2, 2] negative)
        <float[2, 2, 1, 1] w = {1, -2, 0.5, 1.5}> {
            [conv] maps = Conv(x, w)
            [pool] pooled = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (maps)
            [relu] positive = Relu(pooled)
            [neg] negative = Neg(pooled)
        }"""
    )
    expected, actual = (answers(each, 32, x=x) for each in (twice, convert(twice, "int8", x, fashion_mnist.IMAGE)))
    for name in ("positive", "negative"):
        assert apart(actual[name], expected[name])[0] < 0.05
