"""A model that computes for as long as its request says."""

import numpy as np
import onnx

from tests.kit import onnx_models


def slow() -> onnx.ModelProto:
    """rounds INT64 [1] -> done INT64 [1]: a loop of that many rounds."""
    make = onnx.helper.make_node
    info = onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph(
        [
            make("Identity", ["going"], ["still_going"]),
            make("MatMul", ["matrix", "matrix"], ["product"]),
            make("ReduceMax", ["product"], ["largest"], keepdims=0),
            make("Cast", ["largest"], ["step"], to=onnx.TensorProto.INT64),
            make("Add", ["count", "step"], ["next"]),
        ],
        "body",
        [
            info("i", onnx.TensorProto.INT64, []),
            info("going", onnx.TensorProto.BOOL, []),
            info("count", onnx.TensorProto.INT64, [1]),
        ],
        [info("still_going", onnx.TensorProto.BOOL, []), info("next", onnx.TensorProto.INT64, [1])],
    )
    return onnx_models.model(
        [
            make("Squeeze", ["rounds"], ["times"]),
            make("Loop", ["times", "yes", "zero"], ["done"], body=body),
        ],
        {"rounds": (onnx.TensorProto.INT64, [1])},
        {"done": (onnx.TensorProto.INT64, [1])},
        {"yes": np.array(True), "zero": np.zeros(1, np.int64), "matrix": np.eye(32, dtype=np.float32)},
    )
