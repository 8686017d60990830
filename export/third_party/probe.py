"""Load and run somebody else's file in a child process: python -m hangtag.export.third_party.probe FILE.

A file can end the process that loads it, so the findings are JSON on the last line of standard output.
"""

import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hangtag.export.errors import GateError
from hangtag.export.file import onnx_model
from hangtag.export.gate.checks import structure
from hangtag.export.repository import triton_config
from hangtag.serving.batchable import Axes, obstacle
from hangtag.serving.server.errors import InferenceError, ModelLoadError
from hangtag.serving.server.runtime import batching_proof
from hangtag.serving.server.runtime.session import Runtime
from hangtag.serving.server.runtime.synthetic_inputs import Sizes, sample
from hangtag.serving.signature import Signature

_MIN_ROUNDS, _MAX_ROUNDS = 3, 50
_SECONDS = 0.5


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
        speed = _measure(runtime, sizes, batched=verdict.batched)
    except GateError as error:
        return {"refused": error.reason}
    except UnicodeDecodeError as error:
        return {"refused": f"a name or a text in it is not UTF-8 ({error})."}
    except (ModelLoadError, InferenceError) as error:
        return {"refused": f"{' '.join(str(error).split())}."}
    return {
        "structure": dict(structure_check.figures),
        "inputs": list(map(str, runtime.signature.inputs)),
        "outputs": list(map(str, runtime.signature.outputs)),
        "last_axes": [spec.shape[-1] for spec in runtime.signature.outputs if spec.shape],
        "batching": asdict(verdict),
        "speed": speed,
        "pictures_taken": _pictures_taken(runtime.signature),
        "triton": None if verdict.batched else triton_config.render(runtime.signature),
        "operators": dict(onnx_model.operators(model)),
    }


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


def _measure(runtime: Runtime, sizes: Sizes, *, batched: bool) -> dict[str, object]:
    """Median milliseconds of a synthetic batch of 1, and of 64 for a batched model, in bare ONNX Runtime, on one
    thread, in the form of the gate's speed figures.

    Args:
        sizes: at which the model runs.
    """
    one = sample(runtime.signature, sizes, 0)
    medians: dict[str, dict[str, float]] = {}
    for size in (1, 64) if batched else (1,):
        inputs = {name: np.concatenate([array] * size) for name, array in one.items()} if size > 1 else one
        times: list[float] = []
        begin = time.perf_counter()
        while len(times) < _MIN_ROUNDS or (len(times) < _MAX_ROUNDS and time.perf_counter() - begin < _SECONDS):
            start = time.perf_counter()
            runtime.run(inputs)
            times.append((time.perf_counter() - start) * 1e3)
        medians[str(size)] = {"file": round(float(np.median(times)), 4)}
    return {"threads": 1, "median_ms": medians, "missing": {}}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(probe(Path(sys.argv[1]))) + "\n")
