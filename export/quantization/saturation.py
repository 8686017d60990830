"""Give the 8-bit weights of LSTMs scales at which every processor computes the same sums.

A processor with AVX2 and without 8-bit dot products (AVX-512 VNNI, AVX-VNNI) multiplies activations, 0 to 255, with
weights, -127 to 127, and adds the products of two neighbouring inputs in 16 bits. A sum beyond 32,767 saturates
without notice, so that the file answers differently there. ONNX Runtime's ``reduce_range`` avoids this with 7 bits for
all weights, which costs ``lstm`` more than one answer in a hundred. Here only the columns that need it get a larger
scale: those where two neighbouring weights of one sign add up to more than 128.
"""

import numpy as np
import onnx
from onnx import numpy_helper

from hangtag.export.arrays import Array

_LARGEST = 127
_LARGEST_PAIR = 127.0
"""Of the magnitudes of two neighbours: 255 * (127 + 1) fits into 16 bits, and rounding may add 1/2 to each weight."""
# Inputs of DynamicQuantizeLSTM: the place of the weights, of their scales, and of the FP32 weights in LSTM.
_PLACES = ((1, 8, 1), (2, 10, 2))


def prevent_saturation(quantized: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """Quantize the weights of every DynamicQuantizeLSTM anew, in place, with scales that avoid saturation.

    Args:
        quantized: ONNX Runtime's quantizer made it of ``original``, with one scale for each column.
        original: the same network in FP32, whose LSTMs come in the same order.
    """
    weights = {tensor.name: tensor for tensor in original.graph.initializer}
    tensors = {tensor.name: tensor for tensor in quantized.graph.initializer}
    lstms = [node for node in original.graph.node if node.op_type == "LSTM"]
    for lstm, node in zip(
        lstms, (node for node in quantized.graph.node if node.op_type == "DynamicQuantizeLSTM"), strict=True
    ):
        for place, scale_place, original_place in _PLACES:
            # LSTM holds [1, 4 * units, inputs], DynamicQuantizeLSTM [1, inputs, 4 * units].
            values, scales = quantize(numpy_helper.to_array(weights[lstm.input[original_place]])[0].T)
            for name, array in ((node.input[place], values[None]), (node.input[scale_place], scales)):
                array = array.reshape(tuple(tensors[name].dims))
                tensors[name].CopyFrom(numpy_helper.from_array(array, name))


def quantize(weights: Array) -> tuple[Array, Array]:
    """Quantize a matrix to 8 bits, symmetrically, one scale for each column.

    Args:
        weights: FP32 [inputs, columns].

    Returns:
        INT8 [inputs, columns], and scales FP32 [columns] with ``weights`` about equal to their product.
    """
    pairs = np.pad(weights, ((0, len(weights) % 2), (0, 0))).reshape(-1, 2, weights.shape[1])
    pair = np.maximum(*(np.clip(sign * pairs, 0, None).sum(axis=1).max(axis=0) for sign in (1, -1)))
    scales = np.maximum(np.abs(weights).max(axis=0) / _LARGEST, pair / _LARGEST_PAIR)
    scales = np.where(scales > 0, scales, 1).astype(np.float32)
    return np.rint(weights / scales).astype(np.int8), scales
