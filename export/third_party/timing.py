"""Time a synthetic batch in bare ONNX Runtime, on one thread."""

import time

import numpy as np

from hangtag.serving.server.runtime.session import Runtime
from hangtag.serving.server.runtime.synthetic_inputs import Sizes, sample

_MIN_ROUNDS, _MAX_ROUNDS = 3, 50
_SECONDS = 0.5


def measure(runtime: Runtime, sizes: Sizes, *, batched: bool) -> dict[str, object]:
    """Median milliseconds at batch 1, and at 64 for a batched model, in the form of the gate's speed figures.

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
