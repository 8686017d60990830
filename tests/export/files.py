"""Shared by the tests: write a model into a file, replace the export from PyTorch, and prove a file."""

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx

from hangtag.export.gate.network_gate import prove
from hangtag.export.gate.proof import GateData, Proof
from hangtag.export.network.served_network import ServedNetwork


def write(folder: Path, model: onnx.ModelProto) -> Path:
    """Write a model into this folder; return the file."""
    file = folder / "model.onnx"
    file.write_bytes(model.SerializeToString())
    return file


def exported_as(
    file: Path, change: Callable[[onnx.ModelProto], None] | None = None
) -> Callable[[ServedNetwork, Mapping[str, str]], onnx.ModelProto]:
    """Replaces ``torch_export.to_onnx``: gives the graph of a file that was exported before, changed."""
    content = file.read_bytes()

    def to_onnx(served: ServedNetwork, metadata: Mapping[str, str]) -> onnx.ModelProto:
        model = onnx.ModelProto.FromString(content)
        if change is not None:
            change(model)
        onnx.helper.set_model_props(model, {f"hangtag.{key}": value for key, value in metadata.items()})
        return model

    return to_onnx


def prove_file(served: ServedNetwork, file: Path, data: GateData) -> Proof:
    return prove(served, file, onnx.load(file), data)
