"""Which layers stay in FP32, with real conversions of small networks whose sensitive layer is known."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hangtag.export.errors import ExportError
from hangtag.export.file.onnx_model import operators
from hangtag.export.quantization import search
from hangtag.export.quantization.agreement import LABELS, Comparison
from hangtag.export.quantization.converters import Converter, Fp16Converter, Int8Converter
from hangtag.export.quantization.search import Found, Judge
from hangtag.serving.server.runtime.session import Runtime
from tests.export.quantization import networks
from tests.kit import onnx_models

Search = Callable[..., Found]


@pytest.fixture
def feeds() -> list[dict[str, networks.Array]]:
    return [{"x": row[None]} for row in networks.samples()]


@pytest.fixture
def found(tmp_path: Path, feeds: list[dict[str, networks.Array]]) -> Search:
    """Searches a network's layers by real runs."""

    def run(model: onnx.ModelProto) -> list[dict[str, networks.Array]]:
        file = tmp_path / "model.onnx"
        file.write_bytes(model.SerializeToString())
        runtime = Runtime(file, provider="cpu")
        return [runtime.run(feed) for feed in feeds]

    def search_layers(
        model: onnx.ModelProto, converter: Converter, least: float, seconds: float = 60, lines: list[str] | None = None
    ) -> Found:
        comparison = Comparison(run(model), {"scores": LABELS})
        judge = Judge(lambda made: comparison.agreement(run(made)), lambda made: comparison.distance(run(made)))
        return search.search(converter, judge, least, seconds, (lines if lines is not None else []).append)

    return search_layers


def names(found: Found) -> Sequence[str]:
    return [layer.name for layer in found.kept]


def test_the_sensitive_layer_alone_stays_in_fp32(
    found: Search, feeds: list[dict[str, networks.Array]], tmp_path: Path
) -> None:
    model, lines = networks.sensitive(), []  # type: tuple[onnx.ModelProto, list[str]]
    result = found(model, Int8Converter(model, feeds, tmp_path), 0.95, lines=lines)
    assert names(result) == ["fragile"]
    assert result.kept[0].operator == "MatMul"
    assert result.kept[0].error is not None
    assert result.kept[0].error > 0.05
    assert result.agreement.share >= 0.95
    assert lines[0].startswith("3 of 3 layers converted: ")
    assert any(line.startswith("layer 2 of 3, fragile: alone it moves the outputs by ") for line in lines)
    assert lines[-1].startswith("2 of 3 layers converted: ")


def test_where_all_agree_no_layer_stays(found: Search, feeds: list[dict[str, networks.Array]], tmp_path: Path) -> None:
    model = networks.robust()
    assert names(found(model, Int8Converter(model, feeds, tmp_path), 0.9)) == []


def test_layers_that_there_is_no_time_to_measure_stay_first(
    found: Search, feeds: list[dict[str, networks.Array]], tmp_path: Path
) -> None:
    model, lines = networks.sensitive(), []  # type: tuple[onnx.ModelProto, list[str]]
    result = found(model, Int8Converter(model, feeds, tmp_path), 0.95, seconds=0, lines=lines)
    assert names(result) == ["first", "fragile"]
    assert [layer.error for layer in result.kept] == [None, None]
    assert "the time for measuring is over; layers 1 to 3 count as the most sensitive" in lines


def test_in_half_precision_a_node_whose_values_are_too_large_stays(
    found: Search, feeds: list[dict[str, networks.Array]], tmp_path: Path
) -> None:
    """On a CPU ONNX Runtime computes most of half precision in FP32, so no answer would show that it overflows."""
    model = networks.overflowing()
    converter = Fp16Converter(model, feeds, tmp_path)
    assert [node.name for node in converter.too_large] == ["squares", "smaller"]
    assert [node.name for node in converter.layers] == ["larger", "last"]
    result = found(model, converter, 0.99)
    assert result.agreement.share >= 0.99
    kinds = {tensor.name: tensor.data_type for tensor in result.model.graph.initializer}
    assert kinds["last"] == TensorProto.FLOAT16
    assert kinds["tiny"] == TensorProto.FLOAT


def test_where_no_choice_suffices_the_error_has_the_best(
    found: Search, feeds: list[dict[str, networks.Array]], tmp_path: Path
) -> None:
    model = onnx_models.model(
        [helper.make_node("MatMul", ["x", "w"], ["scores"], name="only")],
        {"x": (1, ["batch", networks.FEATURES])},
        {"scores": (1, ["batch", networks.LABELS])},
        {"w": np.outer(np.ones(16), 1 + 1e-4 * np.arange(5)).astype(np.float32)},
    )
    with pytest.raises(ExportError, match=r"^99\.0% of the samples must be answered alike, and .*: at best .* samples"):
        found(model, Int8Converter(model, feeds, tmp_path), 0.99)


def test_a_network_without_layers_to_quantize_is_refused(
    feeds: list[dict[str, networks.Array]], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="int8 is for Conv, Gemm, MatMul with constant weights in the main graph"):
        Int8Converter(onnx_models.unbatched(), feeds, tmp_path)


def test_layers_without_names_get_some(feeds: list[dict[str, networks.Array]], tmp_path: Path) -> None:
    model = networks.sensitive()
    for node in model.graph.node:
        node.name = ""
    converter = Int8Converter(model, feeds, tmp_path)
    assert len({node.name for node in converter.layers}) == 3
    one_in_fp32 = converter.convert({converter.layers[1].name})
    assert operators(one_in_fp32)["QuantizeLinear"] < operators(converter.convert(set()))["QuantizeLinear"]


def test_a_bias_with_an_axis_of_one_is_quantized(feeds: list[dict[str, networks.Array]], tmp_path: Path) -> None:
    """The runtime fuses a product and a sum into a Gemm, whose bias ONNX Runtime's quantizer expects flat."""
    model = onnx_models.model(
        [
            helper.make_node("MatMul", ["x", "w"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["scores"]),
        ],
        {"x": (1, ["batch", networks.FEATURES])},
        {"scores": (1, ["batch", networks.LABELS])},
        {"w": networks.weights(1, 16, 5), "bias": networks.weights(2, 1, 5)},
    )
    converted = Int8Converter(model, feeds, tmp_path).convert(set())
    assert operators(converted)["DequantizeLinear"] >= 3
    onnx.checker.check_model(converted)


def test_an_old_opset_is_raised(feeds: list[dict[str, networks.Array]], tmp_path: Path) -> None:
    model = networks.sensitive()
    model.opset_import[0].version = 11
    converted = Int8Converter(model, feeds, tmp_path).convert(set())
    assert next(entry.version for entry in converted.opset_import if not entry.domain) >= 13
