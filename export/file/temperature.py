"""Fold a temperature into a classifier's graph: ``probabilities`` become the softmax of ``logits`` / T.

The graph is changed after its conversion to a precision, so that nothing that computes the logits changes with it.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxscript import optimizer

_TEMPERATURE, _SCALED = "temperature", "logits_by_temperature"


def fold(model: onnx.ModelProto, temperature: float) -> onnx.ModelProto:
    """Return the same classifier with probabilities at this temperature, in FP32. ``model`` is not changed.

    Args:
        model: has the outputs ``logits`` and ``probabilities``, FP32 [batch, labels].
        temperature: above 0. At 1 the probabilities stay what they are, within rounding.
    """
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    graph = folded.graph
    (replaced,) = [node for node in graph.node if "probabilities" in node.output]
    graph.node.remove(replaced)
    graph.initializer.append(numpy_helper.from_array(np.array(temperature, np.float32), _TEMPERATURE))
    graph.node.append(helper.make_node("Div", ["logits", _TEMPERATURE], [_SCALED], name="divide_by_temperature"))
    graph.node.append(helper.make_node("Softmax", [_SCALED], ["probabilities"], name="calibrated_softmax", axis=1))
    # In FP16 the replaced node is a Cast, whose Softmax has no reader now.
    optimizer.remove_unused_nodes(folded)
    return folded
