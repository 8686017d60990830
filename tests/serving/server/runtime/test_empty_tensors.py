"""The server refuses every empty tensor that would crash ONNX Runtime."""

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from hangtag.protos import tensors
from hangtag.serving.model_repository import ModelFile
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import InferenceError, InvalidRequestError
from hangtag.serving.server.runtime.session import Runtime
from tests.kit import onnx_models
from tests.kit.forkserver import Forked
from tests.kit.onnx_models import from_text

MS, ML = "com.microsoft", "ai.onnx.ml"
Arrays = dict[str, Any]


def f(*shape: int) -> Any:
    return np.linspace(0.1, 0.9, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def i(*shape: int) -> Any:
    return np.ones(shape, np.int64)


def u(*shape: int) -> Any:
    return np.ones(shape, np.uint8)


# Empty tensors point to this protected memory. An operator that reads it crashes the process.
_GUARDED = mmap.mmap(-1, 2 << 20, prot=0)
_SCALE, _ZERO = np.array(0.1, np.float32), np.array(3, np.uint8)
_Q = (_SCALE, _ZERO)

# The inputs of each operator (tuples hold constants) and its attributes. A hyphen separates the domain from the name.
OPERATORS: dict[str, list[tuple[list[Any], dict[str, Any]]]] = {
    **{name: [([f(2, 3, 4)], {})] for name in ("Relu", "Erf", "Softmax", "ArgMax", "Transpose", "Shape", "NonZero")},
    **{name: [([f(2, 3, 4), f(2, 3, 4)], {})] for name in ("Add", "Div", "Max", "Pow", "Less")},
    **{
        name: [([f(2, 3, 4), (np.array(axes, np.int64),)], {}) for axes in ([0], [1, 2])]
        for name in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceProd", "ReduceLogSumExp")
    },
    "MatMul": [([f(2, 3, 4), f(2, 4, 5)], {}), ([f(3, 4), (f(4, 5),)], {})],
    "Gemm": [([f(3, 4), (f(4, 5),), (f(5),)], {})],
    "Einsum": [([f(2, 3, 4), f(2, 4, 5)], {"equation": "bij,bjk->bik"})],
    "MatMulInteger": [([u(3, 4), u(4, 5)], {})],
    "DynamicQuantizeLinear": [([f(3, 4)], {})],
    "Conv": [([f(2, 8, 9, 9), (f(8, 8, 3, 3),)], {"pads": [2] * 4}), ([f(2, 8, 9), (f(8, 1, 3),)], {"group": 8})],
    "QLinearConv": [([u(2, 8, 9, 9), _SCALE, _ZERO, (u(8, 8, 3, 3),), (_SCALE,), (_ZERO,), (_SCALE,), (_ZERO,)], {})],
    **{name: [([f(2, 8, 9, 9)], {"kernel_shape": [2, 2]})] for name in ("MaxPool", "AveragePool", "LpPool")},
    **{name: [([f(2, 8, 9, 9)], {})] for name in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")},
    "MaxRoiPool": [([f(2, 8, 9, 9), f(3, 5)], {"pooled_shape": [2, 2]})],
    "Resize": [([f(2, 3, 8, 8), (), (np.array([1, 1, 2, 2], np.float32),)], {"mode": "linear"})],
    "GridSample": [([f(2, 3, 8, 8), f(2, 4, 4, 2)], {})],
    "BatchNormalization": [([f(2, 8, 5), (f(8),), (f(8),), (f(8),), (f(8),)], {})],
    "LayerNormalization": [([f(2, 3, 8), (f(8),), (f(8),)], {})],
    "LRN": [([f(2, 8, 5, 5)], {"size": 3})],
    "RNN": [([f(4, 2, 3), (f(1, 2, 3),), (f(1, 2, 2),)], {"hidden_size": 2})],
    "Concat": [([f(2, 3), f(2, 3)], {"axis": axis}) for axis in (0, 1)],
    "Reshape": [([f(2, 3, 4), (np.array(shape, np.int64),)], {}) for shape in ([-1, 12], [0, -1])],
    "Slice": [([f(4, 4), (i(2) - 1,), (i(2) + 1,)], {})],
    "Split": [([f(2, 4)], {"axis": 1, "num_outputs": 1})],
    "Pad": [([f(4, 4), (i(4),)], {"mode": mode}) for mode in ("constant", "reflect", "edge", "wrap")],
    "Tile": [([f(2, 3), i(2)], {})],
    "Expand": [([f(2, 1), i(2)], {})],
    "Gather": [([f(2, 3), i(2, 2)], {})],
    "GatherElements": [([f(2, 3), i(2, 2)], {})],
    "GatherND": [([f(2, 3), i(2, 1)], {})],
    "ScatterND": [([f(2, 3), i(2, 1), f(2, 3)], {})],
    "ScatterElements": [([f(2, 3), i(1, 2), f(1, 2)], {})],
    "OneHot": [([i(2, 3), (i(1) * 4,), (f(2),)], {})],
    "TopK": [([f(5, 6), (i(1),)], {"axis": axis}) for axis in (0, 1)],
    "CumSum": [([f(3, 4), (np.array(1, np.int64),)], {})],
    "Trilu": [([f(2, 3, 4)], {})],
    "DepthToSpace": [([f(1, 8, 4, 4)], {"blocksize": 2})],
    "Compress": [([f(3, 4), np.array([True, False])], {"axis": 0})],
    "Where": [([np.ones((2, 3), np.bool_), f(2, 3), f(2, 3)], {})],
    "DFT": [([f(1, 16, 1)], {})],
    "Multinomial": [([f(2, 3)], {"sample_size": 2})],
    "StringConcat": [([np.array([["a"]], np.object_), np.array([["b"]], np.object_)], {})],
    f"{ML}-Scaler": [([f(3, 4)], {"offset": [0.0] * 4, "scale": [1.0] * 4})],
    f"{ML}-Normalizer": [([f(3, 4)], {"norm": norm}) for norm in ("MAX", "L1", "L2")],
    f"{ML}-LinearRegressor": [([f(3, 4)], {"coefficients": [0.1] * 4, "intercepts": [0.1], "targets": 1})],
    f"{ML}-ArrayFeatureExtractor": [([f(3, 4), i(1, 2)], {})],
    **{f"{MS}-{name}": [([f(2, 3, 4)], {})] for name in ("Gelu", "FastGelu", "QuickGelu")},
    f"{MS}-BiasGelu": [([f(2, 3, 4), f(4)], {})],
    f"{MS}-FusedConv": [([f(2, 8, 9, 9), (f(8, 8, 3, 3),), (f(8),)], {"activation": "Relu"})],
    f"{MS}-FusedGemm": [([f(3, 4), f(4, 5), f(5)], {"activation": "Relu"})],
    f"{MS}-FusedMatMul": [([f(2, 3, 4), f(2, 4, 5)], {})],
    f"{MS}-MatMulNBits": [
        ([f(2, 3, 32), (u(5, 1, 16),), (f(5),)], {"K": 32, "N": 5, "bits": 4, "block_size": 32}),
    ],
    f"{MS}-DynamicQuantizeMatMul": [([f(2, 3, 4), (u(4, 5),), (_SCALE,), (_ZERO,)], {})],
    f"{MS}-MatMulIntegerToFloat": [([u(2, 3, 4), (u(4, 5),), (_SCALE,), (_SCALE,), (_ZERO,), (_ZERO,)], {})],
    **{f"{MS}-{name}": [([u(2, 3), *_Q, u(2, 3), *_Q, *_Q], {})] for name in ("QLinearAdd", "QLinearMul")},
    **{f"{MS}-{name}": [([u(2, 3), *_Q, *_Q], {})] for name in ("QLinearSigmoid", "QLinearLeakyRelu")},
    f"{MS}-QLinearSoftmax": [([u(2, 3), *_Q, (_SCALE,), (_ZERO,)], {"axis": 1, "opset": 13})],
    f"{MS}-QLinearConcat": [([(_SCALE,), (_ZERO,), u(2, 3), *_Q, u(2, 3), *_Q], {"axis": 1})],
    f"{MS}-QLinearWhere": [([np.ones((2, 3), np.bool_), u(2, 3), *_Q, u(2, 3), *_Q, *_Q], {})],
    f"{MS}-QLinearGlobalAveragePool": [([u(2, 8, 5, 5), *_Q, *_Q], {"channels_last": last}) for last in (0, 1)],
    f"{MS}-QGemm": [([u(2, 4), *_Q, (u(4, 5),), (_SCALE,), (_ZERO,)], {})],
    f"{MS}-NhwcMaxPool": [([u(2, 5, 5, 8)], {"kernel_shape": [2, 2]})],
    f"{MS}-QuantizeLinear": [([f(2, 3), *_Q], {})],
    f"{MS}-DequantizeLinear": [([u(2, 3), *_Q], {})],
}
# ONNX Runtime 1.32 crashes if one of these operators gets an empty tensor, so the server refuses such requests.
FATAL: dict[str, list[tuple[list[Any], dict[str, Any]]]] = {
    "LSTM": [([f(4, 2, 3), (f(1, 8, 3),), (f(1, 8, 2),)], {"hidden_size": 2})],
    "GRU": [([f(4, 2, 3), (f(1, 6, 3),), (f(1, 6, 2),)], {"hidden_size": 2})],
    "ConvTranspose": [([f(1, 2, 4, 4, 4), (f(2, 2, 3, 3, 3),)], {})],
    "InstanceNormalization": [([f(2, 8, 5), (f(8),), (f(8),)], {})],
    "NonMaxSuppression": [([f(1, 6, 4), f(1, 2, 6), i(1)], {})],
    "RoiAlign": [([f(2, 3, 8, 8), 0 * f(2, 4), i(2) - 1], {"coordinate_transformation_mode": "output_half_pixel"})],
    "STFT": [([f(1, 64, 1), (np.array(16, np.int64),), f(32)], {})],
    "Unique": [([f(3, 4)], {"axis": 0})],
    f"{ML}-FeatureVectorizer": [([f(3, 4), f(3, 2)], {"inputdimensions": [4, 2]})],
    f"{MS}-QLinearAveragePool": [([u(2, 5, 5, 8), *_Q, *_Q], {"channels_last": 1, "kernel_shape": [2, 2]})],
    f"{MS}-SkipLayerNormalization": [([f(2, 3, 8), f(2, 3, 8), (f(8),)], {})],
    f"{MS}-MultiHeadAttention": [([f(2, 3, 8), f(2, 3, 8), f(2, 3, 8)], {"num_heads": 2})],
}


def model(name: str, inputs: list[Any], attributes: dict[str, Any]) -> tuple[bytes, Arrays]:
    """A model that has one operator and whose input axes are all dynamic, and arrays for these inputs."""
    domain, _, operator = name.rpartition("-")
    names = ["" if isinstance(given, tuple) and not given else f"in_{place}" for place, given in enumerate(inputs)]
    outputs = [f"out_{number}" for number in range({"DynamicQuantizeLinear": 3, "TopK": 2}.get(operator, 1))]
    arrays = {key: given for key, given in zip(names, inputs, strict=True) if not isinstance(given, tuple)}
    constants = [
        numpy_helper.from_array(given[0], key)
        for key, given in zip(names, inputs, strict=True)
        if isinstance(given, tuple) and given
    ]
    graph = helper.make_graph(
        [helper.make_node(operator, names, outputs, domain=domain, **attributes)],
        "test",
        [
            helper.make_tensor_value_info(
                key, onnx_models.TYPES[tensors.datatype_of(array)], [f"{key}_{axis}" for axis in range(array.ndim)]
            )
            for key, array in arrays.items()
        ],
        [onnx.ValueInfoProto(name=output) for output in outputs],
        constants,
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in (("", onnx_models.OPSET), (MS, 1), (ML, 3))]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString(), arrays


def empty_variants(arrays: Arrays) -> Iterator[Arrays]:
    """Variants: one axis is empty, all axes that share a size are empty, or the first axis of every array is empty."""
    places = [(name, axis, size) for name, array in arrays.items() for axis, size in enumerate(array.shape)]
    choices = [[place] for place in places]
    choices += [[place for place in places if place[2] == size] for size in {size for _, _, size in places}]
    choices.append([place for place in places if place[1] == 0])
    for chosen in choices:
        variant = dict(arrays)
        for name, axis, _ in chosen:
            array = np.take(variant[name], np.array([], np.int64), axis=axis)
            variant[name] = array if array.dtype == object else np.ndarray(array.shape, array.dtype, _GUARDED, 1 << 20)
        yield variant


def run_all(folder: Path) -> None:
    """Write every model to the folder. Most of the empty requests that the server accepts must be answered."""
    answered = 0
    for name, cases in (OPERATORS | FATAL).items():
        admitted = 0
        for number, (inputs, attributes) in enumerate(cases):
            file = folder / name / str(number + 1) / "model.onnx"
            file.parent.mkdir(parents=True)
            data, arrays = model(name, inputs, attributes)
            file.write_bytes(data)
            runtime = Runtime(file, provider="cpu", batching_override=False)
            runtime.run(arrays)
            served = ServedModel(ModelFile(name, number + 1, file), runtime, ServerConfig())
            datatypes = {key: tensors.datatype_of(array) for key, array in arrays.items()}
            for variant in empty_variants(arrays):
                try:
                    served.check(variant, datatypes)
                    admitted += 1
                    runtime.run(variant)
                    answered += 1
                except (InvalidRequestError, InferenceError):
                    pass
        assert bool(admitted) is (name in OPERATORS), name
    assert answered > 300


def test_no_admitted_operator_ends_the_process(tmp_path: Path) -> None:
    with Forked(run_all, tmp_path) as child:
        assert child.wait(120) == 0, child.stderr.read()


LSTM = "LSTM <hidden_size = 2> (x, w, r)"
WEIGHTS: dict[str, Any] = {"w": np.ones((1, 8, 3), np.float32), "r": np.ones((1, 8, 2), np.float32)}
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
    """A model with one of ONNX Runtime's own operators, for which the server accepts no empty tensors."""
    model = from_text("(float[n, 2, 2] x) => (float[n, 2, 2] y) { y = Neg(x) }")
    return calling(model, "Inverse", "com.microsoft")


def calling(model: onnx.ModelProto, operator: str, domain: str) -> onnx.ModelProto:
    """Replace the model's only operator by an operator of another domain."""
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
    """The oldest supported versions of ONNX Runtime do not report the operators."""
    file = onnx_models.publish(tmp_path, "m", onnx_models.free_axis())
    assert Runtime(file, provider="cpu").no_empty_because == ""
    monkeypatch.delattr("onnxruntime.capi.onnxruntime_inference_collection.Session.get_provider_graph_assignment_info")
    assert "does not report" in Runtime(file, provider="cpu").no_empty_because
