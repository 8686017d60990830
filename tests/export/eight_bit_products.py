"""Whether this CPU multiplies 8-bit integers exactly, for tests of int8 networks' answers.

Without 8-bit dot products (AVX-512 VNNI, AVX-VNNI or ARM's) ONNX Runtime adds pairs of products in 16 bits, which
saturate. int8 LSTMs then lose accuracy, and the gate refuses them, as docs/export.md says.
"""

from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

_SIZE = 64


@cache
def products_are_exact() -> bool:
    """Whether the largest sum of products that 8 bits allow comes out exactly."""
    weights = numpy_helper.from_array(np.full((_SIZE, _SIZE), 127, np.int8), "weights")
    shapes = {
        "x": helper.make_tensor_value_info("x", TensorProto.UINT8, [1, _SIZE]),
        "y": helper.make_tensor_value_info("y", TensorProto.INT32, [1, _SIZE]),
    }
    node = helper.make_node("MatMulInteger", ["x", "weights"], ["y"])
    graph = helper.make_graph([node], "products", [shapes["x"]], [shapes["y"]], [weights])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"x": np.full((1, _SIZE), 255, np.uint8)})
    return bool((sums == 255 * 127 * _SIZE).all())


needs_exact_products = pytest.mark.skipif(
    not products_are_exact(), reason="this CPU adds 8-bit products in 16 bits, which saturate: see docs/export.md"
)
