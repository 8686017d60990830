"""In a child process: load somebody else's file, time it, and find out whether its requests may be batched."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx

from hangtag.export import child_process
from hangtag.export.file import onnx_model
from hangtag.export.gate import speed
from hangtag.export.gate.checks import structure
from hangtag.export.repository.publishing import triton_config
from hangtag.serving.batchable import Axes, obstacle
from hangtag.serving.server.runtime import batching_proof
from hangtag.serving.server.runtime.session import Runtime
from hangtag.serving.server.runtime.synthetic_inputs import sample
from hangtag.serving.signature import Signature

_RUNTIME = "runtime"


def run(file: Path, shown_as: Path, *, timed: bool = False) -> dict[str, Any]:
    """Probe a file in a child process.

    Args:
        file: The ONNX file.
        shown_as: Its name in error messages.
        timed: Whether to measure its speed.

    Returns:
        What ``probe`` returns.

    Raises:
        GateError: the file is refused, ends the process, or gives no answer.
    """
    return child_process.run(probe, shown_as, _RUNTIME, path=str(file), timed=timed)


def probe(path: str, timed: bool) -> dict[str, Any]:
    """Describe the file: structure, signature, whether it may be batched, and, where it is ``timed``, its speed.

    Raises:
        GateError: ONNX's checker refuses it.
        ModelLoadError: ONNX Runtime cannot load it.
        InferenceError: no synthetic input gets an answer.
    """
    model = onnx.load(path)
    structure_check = structure.check(model, Path(path).stat().st_size / 1e6, strict=False)
    runtime = Runtime(Path(path), provider="cpu")
    # The graph also lists inputs that have an initializer: those are optional, and the runtime hides them.
    names = {spec.name for spec in runtime.signature.inputs}
    inputs = {value.name: _axes(value) for value in model.graph.input if value.name in names}
    outputs = {value.name: _axes(value) for value in model.graph.output}
    verdict, sizes = batching_proof.prove(runtime, obstacle(inputs, outputs), set(onnx_model.operators(model)))
    if verdict.batched and runtime.signature.impossibility:
        # The runtime may see other axes than the graph declares, and the server goes by the runtime's.
        verdict = replace(verdict, batched=False, why=runtime.signature.impossibility)
    runtime.warm_up([1])
    found: dict[str, Any] = {
        "structure": dict(structure_check.figures),
        "inputs": list(map(str, runtime.signature.inputs)),
        "outputs": list(map(str, runtime.signature.outputs)),
        "last_axes": [spec.shape[-1] for spec in runtime.signature.outputs if spec.shape],
        "batching": asdict(verdict),
        "pictures_taken": _pictures_taken(runtime.signature),
        "triton": None if verdict.batched else triton_config(runtime.signature),
    }
    if timed:
        one = sample(runtime.signature, sizes, 0)
        found["speed"] = speed.of_files({speed.FILE: runtime}, one, batched=verdict.batched)
    return found


def _pictures_taken(signature: Signature) -> str:
    """Which pictures `hangtag classify` may send: ``all``, those of the ``exact`` size, or ``none``."""
    if signature.picture_shape is None:
        return "none"
    return "exact" if signature.image is None else "all"


def _axes(value: onnx.ValueInfoProto) -> Axes:
    """The shape as the graph declares it: a size, a name, or None for an axis without either."""
    return [
        dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None)
        for dim in value.type.tensor_type.shape.dim
    ]
