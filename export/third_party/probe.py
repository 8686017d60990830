"""Load and run somebody else's file in a child process: python -m hangtag.export.third_party.probe FILE.

A file can end the process that loads it, so the findings are JSON on the last line of standard output.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx

from hangtag.export.errors import GateError
from hangtag.export.file import onnx_model
from hangtag.export.gate.checks import structure
from hangtag.export.repository import triton_config
from hangtag.export.third_party import timing
from hangtag.serving.batchable import Axes, obstacle
from hangtag.serving.server.errors import InferenceError, ModelLoadError
from hangtag.serving.server.runtime import batching_proof
from hangtag.serving.server.runtime.session import Runtime


def probe(path: Path) -> dict[str, Any]:
    """Describe the file: structure, signature, whether it may be batched, speed, operators.

    Returns:
        JSON values; only ``refused``, the reason, for a file that must not be published.
    """
    try:
        model = onnx.load(path)
        structure_check = structure.check(model, path.stat().st_size / 1e6, strict=False)
        runtime = Runtime(path, provider="cpu")
        # The graph also lists inputs that have an initializer: those are optional, and the runtime hides them.
        names = {spec.name for spec in runtime.signature.inputs}
        inputs = {value.name: _axes(value) for value in model.graph.input if value.name in names}
        outputs = {value.name: _axes(value) for value in model.graph.output}
        verdict, sizes = batching_proof.prove(runtime, obstacle(inputs, outputs), set(onnx_model.operators(model)))
        if verdict.batched and runtime.signature.impossibility:
            # The runtime may see other axes than the graph declares, and the server goes by the runtime's.
            verdict = replace(verdict, batched=False, why=runtime.signature.impossibility)
        runtime.warm_up([1])
        speed = timing.measure(runtime, sizes, batched=verdict.batched)
    except GateError as error:
        return {"refused": error.reason}
    except (ModelLoadError, InferenceError) as error:
        return {"refused": f"{' '.join(str(error).split())}."}
    return {
        "structure": dict(structure_check.figures),
        "inputs": list(map(str, runtime.signature.inputs)),
        "outputs": list(map(str, runtime.signature.outputs)),
        "last_axes": [spec.shape[-1] for spec in runtime.signature.outputs if spec.shape],
        "batching": asdict(verdict),
        "speed": speed,
        "triton": None if verdict.batched else triton_config.render(runtime.signature),
        "operators": dict(onnx_model.operators(model)),
    }


def _axes(value: onnx.ValueInfoProto) -> Axes:
    """The shape as the graph declares it: a size, a name, or None for an axis without either."""
    return [
        dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None)
        for dim in value.type.tensor_type.shape.dim
    ]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(probe(Path(sys.argv[1]))) + "\n")
