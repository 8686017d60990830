"""Turn a trained network into an ONNX model.

The graph contains the preprocessing, so its input is ``image``, UINT8 [batch, height, width]. The graph's outputs are
those of the ServedNetwork.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnxscript import optimizer
from torch.onnx.errors import OnnxExporterError

from hangtag.export.errors import ExportError
from hangtag.export.file.lstm_simplification import simplify_lstms
from hangtag.export.network import ServedNetwork

OPSET = 20
# The optimizer folds constants of up to this many elements. lstm2's recurrent kernel, the largest, has 2.5 million.
_FOLD_LIMIT = 64 * 1024 * 1024


def to_onnx(served: ServedNetwork, shown_as: str) -> onnx.ModelProto:
    """Export the network, in evaluation mode. ``shown_as`` is the network's name in error messages.

    Raises:
        ExportError: PyTorch cannot export the network, or the weights of an LSTM could not be folded into initializers.
    """
    try:
        return _to_onnx(served)
    except OnnxExporterError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        why = next(iter(str(cause).splitlines()), "").rstrip(".") or type(cause).__name__
        raise ExportError(
            f"{shown_as} cannot be exported to ONNX. PyTorch's exporter: {why}. Change the network to use "
            "tensor operations that ONNX has (no 'if' and no float() on pixels), and train it again."
        ) from error


def _to_onnx(served: ServedNetwork) -> onnx.ModelProto:
    served.eval()
    example = torch.zeros(2, *served.image.shape, dtype=torch.uint8)  # a batch of 1 could freeze the batch axis
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),  # if the export fails, PyTorch prints the graph
        contextlib.ExitStack() as after,
    ):
        logging.disable(logging.WARNING)  # PyTorch also logs warnings about the graph
        after.callback(logging.disable, logging.NOTSET)
        warnings.simplefilter("ignore")  # the exporter's warnings are about PyTorch's own code
        program = torch.onnx.export(
            served,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=[spec.name for spec in served.outputs],
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    assert program is not None  # the exporter returns None only if it writes the file
    # The exporter computes an LSTM's weights with Slice and Concat nodes. ONNX Runtime can prepack and quantize the
    # weights only if they are folded into initializers.
    optimizer.optimize(program.model, input_size_limit=_FOLD_LIMIT, output_size_limit=_FOLD_LIMIT)
    model = program.model_proto
    _cancel_unsqueezes(model)
    simplify_lstms(model)
    _strip(model)
    _require_recurrent_weights_are_initializers(model)
    model.producer_name = "hangtag"
    model.producer_version = ""
    onnx.checker.check_model(model, full_check=True)
    return model


def _cancel_unsqueezes(model: onnx.ModelProto) -> None:
    """Remove each axis that one node adds and the next node drops, such as the channel axis of grey pixels before an
    LSTM."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    added = {node.output[0]: node for node in graph.node if node.op_type == "Unsqueeze"}
    other: dict[str, str] = {}
    for node in graph.node:
        before = added.get(node.input[0]) if node.op_type == "Squeeze" else None
        if before is not None and constants.keys() >= {node.input[1], before.input[1]}:
            dropped, new = (numpy_helper.to_array(constants[each.input[1]]) for each in (node, before))
            if np.array_equal(dropped, new):
                other[node.output[0]] = before.input[0]
    for node in graph.node:
        node.input[:] = [other.get(name, name) for name in node.input]
    optimizer.remove_unused_nodes(model)


def _strip(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes: stack traces with paths of the exporting machine, which fill half of a small file."""
    graph = model.graph
    parts: Iterable[Any] = (
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    )
    for part in parts:
        del part.metadata_props[:]
        part.doc_string = ""


def _require_recurrent_weights_are_initializers(model: onnx.ModelProto) -> None:
    initializers = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "LSTM" and not initializers.issuperset(node.input[1:4]):  # inputs W, R and B
            raise ExportError(
                f"the weights of {node.name} are computed in the graph, so ONNX Runtime could not prepack them. "
                "This is a bug of the export: the installed torch and onnxscript fold constants differently."
            )
