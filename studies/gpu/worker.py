"""Measures one model in one way, in a process of its own, and prints the figures as JSON."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from hangtag.serving.server.host.cpus import usable_cpus
from hangtag.serving.server.runtime.arrays import Tensors, dtype_of, random_rows, shape_of
from hangtag.serving.server.runtime.batch_buckets import no_fixed_shapes_because
from hangtag.serving.server.runtime.session import Runtime

WAYS = {"plain": "session.run", "bound": "IO binding", "graphs": "CUDA graphs"}
_WARM_UP = 5


def measure(file: Path, way: str, provider: str, sizes: list[int], runs: int) -> dict[str, Any]:
    """The figures of one way, or {"skipped": reason}.

    Args:
        way: A key of WAYS.
        sizes: Batch sizes, ascending.
        runs: Measurements of each batch size.
    """
    before = gpu_mib()
    runtime = Runtime(file, provider=provider)
    problem = no_fixed_shapes_because(runtime.signature)
    if problem:
        return {"skipped": problem}
    runtime.warm_up([sizes[0], sizes[-1]])
    if way != "plain":
        runtime.use_io_binding(sizes[-1], instances=1, cuda_graphs="on" if way == "graphs" else "off")
    cpu = Runtime(file, provider="cpu", threads=usable_cpus())
    batches = {size: _batch(runtime, size) for size in sizes}
    figures: dict[str, Any] = {
        "provider": runtime.provider,
        "cuda_graphs": runtime.cuda_graphs,
        "notes": runtime.notes,
        "difference": max(_difference(runtime.run(batch), cpu.run(batch)) for batch in batches.values()),
        "latency_ms": {str(size): _latency(runtime, batch, runs) for size, batch in batches.items()},
    }
    after = gpu_mib()
    if before is not None and after is not None:
        figures["gpu_mib"] = after - before
    return figures


def gpu_mib() -> int | None:
    """The memory used on all GPUs by all processes; None where nvidia-smi does not work."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return sum(int(line) for line in output.split())
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None


def _batch(runtime: Runtime, samples: int) -> Tensors:
    specs = runtime.signature.inputs
    return {spec.name: random_rows(shape_of(spec, samples), dtype_of(spec), seed=samples) for spec in specs}


def _difference(got: Tensors, right: Tensors) -> float:
    """The largest difference between two answers, as a share of the largest value of its output."""
    shares = []
    for name, array in right.items():
        scale = float(np.abs(array.astype(np.float64)).max(initial=0)) or 1.0
        shares.append(float(np.abs(got[name].astype(np.float64) - array.astype(np.float64)).max(initial=0)) / scale)
    return max(shares)


def _latency(runtime: Runtime, batch: Tensors, runs: int) -> dict[str, float]:
    times = []
    for _ in range(_WARM_UP + runs):
        started = time.perf_counter()
        runtime.run(batch)
        times.append((time.perf_counter() - started) * 1e3)
    p50, p99 = np.percentile(times[_WARM_UP:], [50, 99])
    return {"p50": round(float(p50), 4), "p99": round(float(p99), 4)}


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    # Libraries print to standard output too, so the answer goes to a copy of it, and descriptor 1 to standard error.
    answer, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    os.dup2(2, 1)
    answer.write(json.dumps(measure(Path(request.pop("file")), **request)))
    answer.close()
