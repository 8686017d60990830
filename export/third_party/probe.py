"""Load a third-party file in a child process, and find out whether its requests may be batched."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx

from hangtag.export import child_process
from hangtag.export.file import onnx_model
from hangtag.export.gate.prove import check_structure
from hangtag.serving.batchable import Axes, obstacle
from hangtag.serving.server.runtime import batching_proof
from hangtag.serving.server.runtime.session import Runtime


def run(file: Path, shown_as: Path) -> dict[str, Any]:
    """Describe a file: structure, signature, and whether requests may be batched.

    Args:
        file: The ONNX file.
        shown_as: The file's name in error messages.

    Returns:
        The results of each check, as JSON values. ``signature`` comes from the runtime.

    Raises:
        GateError: ONNX's checker or the runtime rejects the file, or the file crashes or hangs the process.
    """
    return child_process.run(_probe, file, shown_as=shown_as, check="runtime")


def _probe(file: Path) -> dict[str, Any]:
    model = onnx.load(file)
    structure_check = check_structure(model, file.stat().st_size / 1e6, strict=False)
    runtime = Runtime(file, provider="cpu")
    # The graph also lists optional inputs, which have an initializer. The runtime does not list these inputs.
    names = {spec.name for spec in runtime.signature.inputs}
    inputs = {value.name: _axes(value) for value in model.graph.input if value.name in names}
    outputs = {value.name: _axes(value) for value in model.graph.output}
    verdict = batching_proof.prove(runtime, obstacle(inputs, outputs), set(onnx_model.operators(model)))
    if verdict.batched and runtime.signature.impossibility:
        # The runtime may report other axes than the graph declares, and the server uses the runtime's axes.
        verdict = replace(verdict, batched=False, why=runtime.signature.impossibility)
    runtime.warm_up([1])
    return {
        "structure": dict(structure_check.figures),
        "signature": runtime.signature,
        "batching": asdict(verdict),
    }


def _axes(value: onnx.ValueInfoProto) -> Axes:
    """Return the shape that the graph declares: a size or a name for each axis, or None if an axis has neither."""
    return [
        dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None)
        for dim in value.type.tensor_type.shape.dim
    ]
