"""A trained network -> one self-describing ONNX file.

Preprocessing is in the graph. Input ``image``: UINT8 [batch, 28, 28]. Outputs ``logits`` and ``probabilities``: FP32
[batch, 10]. Metadata under ``hangtag.`` says what the model is and where it came from.
"""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxscript import optimizer
from torch import Tensor, nn

from export.errors import ExportError
from serving.signature import PREFIX
from training.trainer import normalise

OPSET = 20
# Up to this many elements a constant is folded; the largest here is lstm2's recurrent kernel, 2.5 million.
_FOLD_LIMIT = 64 * 1024 * 1024


class Served(nn.Module):
    """What is deployed: pixels as bytes in, logits and their softmax out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(normalise(image))  # [batch, 28, 28] -> [batch, 10]
        return logits, torch.softmax(logits, dim=1)


def write(network: nn.Module, metadata: Mapping[str, str], path: Path) -> None:
    """Write the network, in evaluation mode, with this metadata (keys without their prefix) to path."""
    served = Served(network).eval()
    example = torch.zeros(2, 28, 28, dtype=torch.uint8)  # a batch of 1 could freeze the axis
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals, which nobody here can act on
        program = torch.onnx.export(
            served,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits", "probabilities"],
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    assert program is not None  # None only when the exporter itself is told to write a file
    # The exporter leaves an LSTM's weights behind Slice and Concat nodes. Folded into initializers they are prepacked
    # by ONNX Runtime and found by its quantizer.
    optimizer.optimize(program.model, input_size_limit=_FOLD_LIMIT, output_size_limit=_FOLD_LIMIT)
    model = program.model_proto
    _strip(model)
    _require_recurrent_weights_are_initializers(model)
    onnx.helper.set_model_props(model, {PREFIX + key: value for key, value in metadata.items()})
    model.producer_name = "hangtag"
    model.producer_version = ""
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def add_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Add metadata (keys without their prefix) to a file that lies there; nothing else in it changes."""
    model = onnx.load(path)
    for key, value in metadata.items():
        model.metadata_props.add(key=PREFIX + key, value=value)
    path.write_bytes(model.SerializeToString())


def _strip(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes: stack traces with paths of the exporting machine, half of a small file."""
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
        if node.op_type == "LSTM" and not initializers.issuperset(node.input[1:4]):  # W, R, B
            raise ExportError(
                f"the weights of {node.name} are computed in the graph, so ONNX Runtime could not prepack them. "
                "This is a bug of the export: the installed torch and onnxscript fold constants differently."
            )
