"""How long a made-up batch takes in bare ONNX Runtime, on one thread."""

import time

import numpy as np

from hangtag.export.foreign.batching_proof import Verdict
from hangtag.export.foreign.synthetic_inputs import RANGES, sample
from hangtag.serving.server.runtime.session import Runtime

_ROUNDS = (3, 50)
_SECONDS = 0.5


def measure(runtime: Runtime, verdict: Verdict) -> dict[str, object]:
    """Median milliseconds at batch 1, and at 64 where it may be batched; in the form of the gate's speed figures."""
    one = sample(runtime.signature, verdict.lengths[0], 0, RANGES[-1])
    times: dict[str, dict[str, float]] = {}
    for size in (1, 64) if verdict.batched else (1,):
        inputs = {name: np.concatenate([array] * size) for name, array in one.items()} if size > 1 else one
        taken: list[float] = []
        begun = time.perf_counter()
        while len(taken) < _ROUNDS[0] or (len(taken) < _ROUNDS[1] and time.perf_counter() - begun < _SECONDS):
            start = time.perf_counter()
            runtime.run(inputs)
            taken.append((time.perf_counter() - start) * 1e3)
        times[str(size)] = {"file": round(float(np.median(taken)), 4)}
    return {"threads": 1, "median_ms": times, "missing": {}}
