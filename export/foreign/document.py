"""A file that claims to be an ONNX model, before anything runs it."""

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor

from hangtag.export.errors import ExportError
from hangtag.export.file import onnx_model as graph

MAX_BYTES = 2 * 1024**3 - 1
"""Protobuf's own limit for one message, and so for a model that is one file."""
NEWEST_OPSET: int = onnx.defs.onnx_opset_version()
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Whose operators ONNX Runtime has; what it lacks of them it says when it loads the file."""


def read(path: Path, max_bytes: int = MAX_BYTES) -> onnx.ModelProto:
    """The model, with external data taken into it. Raises ExportError, which says what is wrong with the file."""
    if not path.is_file():
        raise ExportError(f"there is no file {path}.")
    _require_size(path, path.stat().st_size, max_bytes)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ExportError(f"{path} is no ONNX file, or a part of one: its protobuf cannot be read.") from error
    if not (model.HasField("graph") and model.opset_import and model.graph.output):
        raise ExportError(f"{path} is no ONNX model: it has no graph, no opset or no output.")
    _take_in_external_data(model, path, max_bytes)
    _require_known_operators(model, path)
    return model


def _require_size(path: Path, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise ExportError(
            f"{path} holds {size / 1e6:,.1f} MB with its external data; at most {max_bytes / 1e6:,.1f} MB are taken."
        )


def _take_in_external_data(model: onnx.ModelProto, path: Path, max_bytes: int) -> None:
    folder = path.parent.resolve()
    outside = [tensor for tensor in _tensors(model) if tensor.data_location == TensorProto.EXTERNAL]
    total = path.stat().st_size
    for tensor in outside:
        total += _require_inside(tensor, folder, path)
        _require_size(path, total, max_bytes)
    for tensor in outside:  # onnx's own function for a whole model leaves out some of them
        load_external_data_for_tensor(tensor, str(folder))
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def _require_inside(tensor: TensorProto, folder: Path, path: Path) -> int:
    """How many bytes the tensor's data are; they must lie whole in a file of the model's own folder."""
    what = f"{path}: the data of tensor {tensor.name!r}"
    try:
        info = ExternalDataInfo(tensor)
        offset, length = int(info.offset or 0), int(info.length or 0)
    except ValueError as error:
        raise ExportError(f"{what} cannot be told: {error}.") from error
    location = Path(info.location or "")
    if location.is_absolute() or ".." in location.parts or not location.parts:
        raise ExportError(f"{what} lie at {str(location)!r}; only files in the model's own folder are read.")
    place = (folder / location).resolve()
    if not place.is_relative_to(folder):
        raise ExportError(f"{what} lie at {str(location)!r}, a link that leaves the model's own folder.")
    if not place.is_file():
        raise ExportError(f"{what} are missing: there is no file {folder / location}.")
    size = place.stat().st_size
    if offset < 0 or length < 0 or offset + length > size:
        raise ExportError(f"{what} end at byte {offset + length:,} of {folder / location}, which has {size:,}.")
    return length or size - offset


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of the model, those of subgraphs and of functions' bodies included."""
    yield from graph.nodes(model.graph)
    for function in model.functions:
        yield from graph.nodes(function)


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor of the model, those of subgraphs, functions and attributes included."""
    graphs = [model.graph]
    for node in _nodes(model):
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            graphs += [attribute.g, *attribute.graphs]
    for one in graphs:
        yield from one.initializer
        for sparse in one.sparse_initializer:
            yield sparse.values
            yield sparse.indices


def _require_known_operators(model: onnx.ModelProto, path: Path) -> None:
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    if opset is not None and not 1 <= opset <= NEWEST_OPSET:
        raise ExportError(f"{path} has opset {opset}; the installed onnx knows 1 to {NEWEST_OPSET}. Update it.")
    own = {function.domain for function in model.functions}
    custom = sorted({f"{node.domain}.{node.op_type}" for node in _nodes(model) if node.domain not in {*DOMAINS, *own}})
    if custom:
        raise ExportError(
            f"{path} needs operators that ONNX Runtime does not have: {', '.join(custom[:5])}"
            f"{' and more' if len(custom) > 5 else ''}. Export the model without custom operators."
        )
