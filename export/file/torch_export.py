"""A trained network -> one self-describing ONNX file.

Preprocessing is in the graph: the input is ``image``, UINT8 [batch, height, width]. The outputs are those of what is
served. Metadata under ``hangtag.`` says what the model is and where it came from.
"""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxscript import optimizer

from hangtag.export.errors import ExportError
from hangtag.export.file.lstm_simplification import tidy
from hangtag.export.network.served_network import Served
from hangtag.serving.signature import PREFIX

OPSET = 20
# Up to this many elements a constant is folded; the largest here is lstm2's recurrent kernel, 2.5 million.
_FOLD_LIMIT = 64 * 1024 * 1024


def write(served: Served, metadata: Mapping[str, str], path: Path) -> None:
    """Write what is served, in evaluation mode, with this metadata (keys without their prefix) to path."""
    served.eval()
    example = torch.zeros(2, served.image_size, served.image_size, dtype=torch.uint8)  # 1 could freeze the batch axis
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals, which nobody here can act on
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
    assert program is not None  # None only when the exporter itself is told to write a file
    # The exporter leaves an LSTM's weights behind Slice and Concat nodes. Folded into initializers they are prepacked
    # by ONNX Runtime and found by its quantizer.
    exported = program.model.graph.num_nodes()
    optimizer.optimize(program.model, input_size_limit=_FOLD_LIMIT, output_size_limit=_FOLD_LIMIT)
    model = program.model_proto
    tidy(model)
    _strip(model)
    _require_recurrent_weights_are_initializers(model)
    told = {**metadata, "nodes_before_folding": str(exported)}
    onnx.helper.set_model_props(model, {PREFIX + key: value for key, value in told.items()})
    model.producer_name = "hangtag"
    model.producer_version = ""
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def add_metadata(path: Path, metadata: Mapping[str, str]) -> dict[str, str]:
    """Add metadata (keys without their prefix) to a file that lies there; nothing else in it changes.

    Returns all that is there then, in the same form.
    """
    model = onnx.load(path)
    for key, value in metadata.items():
        model.metadata_props.add(key=PREFIX + key, value=value)
    path.write_bytes(model.SerializeToString())
    return {entry.key.removeprefix(PREFIX): entry.value for entry in model.metadata_props}


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
