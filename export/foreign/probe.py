"""A child process that loads and runs somebody else's file: python -m hangtag.export.foreign.probe FILE.

A file can end the process that loads it. So its last line on standard output is JSON, if it lives to write one.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx

from hangtag.export.errors import GateError
from hangtag.export.file import onnx_model as graph
from hangtag.export.foreign import batching_proof, timing
from hangtag.export.gate.checks import structure
from hangtag.export.repository import triton_config as triton
from hangtag.serving.batchable import Axes, obstacle
from hangtag.serving.server.errors import InferenceError, ModelLoadError
from hangtag.serving.server.runtime.session import Runtime


def probe(path: Path) -> dict[str, Any]:
    """What the file is; or, under "refused", why it may not be published."""
    try:
        checked = structure.check(path, strict=False)
        runtime = Runtime(path, provider="cpu")
        model = onnx.load(path)
        # An input that an initializer stands for is optional, and none of a caller's.
        inputs = {value.name: _axes(value) for value in model.graph.input if value.name in _names(runtime)}
        outputs = {value.name: _axes(value) for value in model.graph.output}
        verdict = batching_proof.prove(runtime, obstacle(inputs, outputs))
        if verdict.batched and runtime.signature.impossibility:
            # The axes may be other ones to the runtime than in the graph, and a server goes by the runtime's.
            verdict = replace(verdict, batched=False, why=runtime.signature.impossibility)
        runtime.warm_up([1])
        speed = timing.measure(runtime, verdict)
    except GateError as error:
        return {"refused": error.why}
    except (ModelLoadError, InferenceError) as error:
        return {"refused": f"{' '.join(str(error).split())}."}
    return {
        "structure": dict(checked.figures),
        "inputs": list(map(str, runtime.signature.inputs)),
        "outputs": list(map(str, runtime.signature.outputs)),
        "last_axes": [spec.shape[-1] for spec in runtime.signature.outputs if spec.shape],
        "batching": asdict(verdict),
        "speed": speed,
        "triton": None if verdict.batched else triton.config(runtime.signature),
        "operators": dict(graph.operators(model)),
    }


def _names(runtime: Runtime) -> set[str]:
    return {spec.name for spec in runtime.signature.inputs}


def _axes(value: onnx.ValueInfoProto) -> Axes:
    """A shape as the graph names it."""
    return [
        dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None)
        for dim in value.type.tensor_type.shape.dim
    ]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(probe(Path(sys.argv[1]))) + "\n")
