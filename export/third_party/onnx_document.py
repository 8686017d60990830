"""Read and check a file that claims to be an ONNX model, before running it."""

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto
from onnx.external_data_helper import load_external_data_for_tensor

from hangtag.export.errors import ExportError
from hangtag.export.file import onnx_model

MAX_BYTES = 2 * 1024**3 - 1
"""Protobuf's limit for one message, and therefore for a model in one file."""


def read(path: Path) -> onnx.ModelProto:
    """Read the model, including its external data.

    Raises:
        ExportError: One of: the file is missing; it exceeds 2 GiB with its external data; it is not a complete ONNX
            model; its external data are outside its folder; a text is not UTF-8.
    """
    if not path.is_file():
        raise ExportError(f"there is no file {path}.")
    _require_size(path, path.stat().st_size)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ExportError(f"{path} is not an ONNX file, or is cut off: its protobuf cannot be read.") from error
    _require_texts(model, path)
    if not (model.HasField("graph") and model.opset_import and model.graph.output):
        raise ExportError(f"{path} is not an ONNX model: it has no graph, no opset or no output.")
    _take_in_external_data(model, path)
    return model


def _require_texts(message: Message, path: Path) -> None:
    """Require that every name and text is UTF-8. If a text is not UTF-8, protobuf returns bytes, or raises an error."""
    try:
        if isinstance(message, TensorProto):  # reading other fields of a tensor would copy its numbers
            texts: list[str | bytes] = [message.name, message.doc_string]
        else:
            texts = []
            for field, value in message.ListFields():
                if field.type == FieldDescriptor.TYPE_STRING:
                    texts += [value] if isinstance(value, str | bytes) else value
                elif field.type == FieldDescriptor.TYPE_MESSAGE:
                    for inner in [value] if isinstance(value, Message) else value:
                        _require_texts(inner, path)
        broken = any(isinstance(text, bytes) for text in texts)
    except UnicodeDecodeError:
        broken = True
    if broken:
        raise ExportError(f"{path} is damaged: a name or a text in it is not UTF-8.")


def _require_size(path: Path, size: int) -> None:
    if size > MAX_BYTES:
        raise ExportError(
            f"{path} has {size / 1e6:,.1f} MB with its external data; the limit is {MAX_BYTES / 1e6:,.1f} MB."
        )


def _take_in_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Read the external data of every tensor into the model. onnx reads only regular files in the model's folder."""
    total = path.stat().st_size
    # onnx's load_external_data_for_model omits some of these tensors
    for tensor in [tensor for tensor in _tensors(model) if tensor.data_location == TensorProto.EXTERNAL]:
        try:
            load_external_data_for_tensor(tensor, str(path.parent.resolve()))
        except (onnx.checker.ValidationError, ValueError, OSError) as error:
            raise ExportError(f"{path}: {' '.join(str(error).split()).rstrip('.')}.") from error
        total += len(tensor.raw_data)
        _require_size(path, total)


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor of the model, including those of subgraphs, functions and attributes."""
    graphs = [model.graph]
    bodies: tuple[onnx.GraphProto | onnx.FunctionProto, ...] = (model.graph, *model.functions)
    for node in (node for body in bodies for node in onnx_model.nodes(body)):
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            graphs += [attribute.g, *attribute.graphs]
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield sparse.values
            yield sparse.indices
