"""In each precision a network keeps its inputs, outputs, metadata, and nearly every answer."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from hangtag.export.errors import ExportError
from hangtag.export.file.onnx_model import operators
from hangtag.export.file.precision import convert, model_name
from hangtag.training.data.fashion_mnist import Images, Split
from tests.export.file.precision.conftest import apart, first, logits, shipped
from tests.kit.onnx_models import classifier

pytestmark = pytest.mark.slow


def test_fp32_returns_the_model_unchanged(calibration: Images) -> None:
    network = shipped("lstm")
    assert convert(network, "fp32", calibration) is network


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("model", ["lstm", "lstm2", "cnn"])
def test_the_contract_is_kept(model: str, precision: str, calibration: Images) -> None:
    network = shipped(model)
    content = network.SerializeToString()
    converted = convert(network, precision, calibration)
    assert network.SerializeToString() == content
    for after, before in ((converted.graph.input, network.graph.input), (converted.graph.output, network.graph.output)):
        assert [(value.name, value.type) for value in after] == [(value.name, value.type) for value in before]
    assert converted.metadata_props == network.metadata_props
    assert converted.producer_name == "hangtag"
    used = {node.domain for node in converted.graph.node} | {""}
    assert {opset.domain for opset in converted.opset_import} == used
    onnx.checker.check_model(converted, full_check=True)


@pytest.mark.parametrize("model", ["lstm", "cnn"])
def test_fp16_halves_the_file_and_keeps_the_answers(model: str, many: Split, calibration: Images) -> None:
    network = shipped(model)
    converted = convert(network, "fp16", calibration)
    weights = [tensor for tensor in converted.graph.initializer if numpy_helper.to_array(tensor).size > 100]
    assert {tensor.data_type for tensor in weights} == {TensorProto.FLOAT16}
    assert converted.ByteSize() < 0.55 * network.ByteSize()
    expected, actual = logits(network, many.images), logits(converted, many.images)
    assert (actual.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.999
    largest, typical = apart(actual, expected)
    assert 0 < largest <= 1e-2
    assert typical <= 5e-4


@pytest.mark.parametrize("model", ["lstm", "cnn"])
def test_fp16_moves_no_logit_far_where_a_network_is_not_steep(model: str, many: Split, calibration: Images) -> None:
    network = first(model)
    expected, actual = logits(network, many.images), logits(convert(network, "fp16", calibration), many.images)
    assert 0 < apart(actual, expected)[0] <= 5e-4


def test_int8_quantizes_the_convolutions_for_each_channel_but_the_first_and_nothing_dense(
    many: Split, calibration: Images
) -> None:
    network = shipped("cnn")
    quantized = convert(network, "int8", calibration)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    producers = {output: node for node in quantized.graph.node for output in node.output}
    convolutions = [node for node in quantized.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == operators(network)["Conv"] == 5
    assert values[convolutions[0].input[1]].shape == (64, 1, 7, 7)  # of one channel: faster as it is
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
    expected, actual = logits(network, many.images), logits(quantized, many.images)
    assert (actual.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.99
    np.testing.assert_allclose(logits(quantized, many.images[:100], 1), actual[:100], atol=1e-4)


def test_int8_of_a_network_without_convolutions_or_lstms_is_refused(calibration: Images) -> None:
    with pytest.raises(ExportError, match=r"int8 is for networks with convolutions or LSTMs; this one has only Cast, "):
        convert(classifier(), "int8", calibration)


@pytest.mark.parametrize("model", ["lstm", "cnn"])
def test_int8_of_nan_weights_is_refused_with_advice(model: str, calibration: Images) -> None:
    network = shipped(model)
    for tensor in network.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(np.nan), tensor.name))
    with pytest.raises(ExportError, match=r"quantizer fails on this network \(\w+: .*\)\. Where --precision fp32 is"):
        convert(network, "int8", calibration)


@pytest.mark.parametrize(("precision", "name"), [("fp32", "cnn"), ("fp16", "cnn-fp16"), ("int8", "cnn-int8")])
def test_a_precision_is_a_model_of_its_own(precision: str, name: str) -> None:
    assert model_name("cnn", precision) == name
