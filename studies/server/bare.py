"""A worker process: ONNX Runtime alone, on the models that the server serves. It computes when it is told to.

Each line on standard input is "MODEL BATCH_SIZE SECONDS"; the answer is a line of JSON: samples a second and the median
time of a batch, for one session with all threads and for as many callers as there are threads on a session of one.
"""

import json
import statistics
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime


def session(models: Path, model: str, threads: int) -> onnxruntime.InferenceSession:
    versions = sorted((models / model).iterdir(), key=lambda version: int(version.name))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(versions[-1] / "model.onnx", options, providers=["CPUExecutionProvider"])


def measure(computes: onnxruntime.InferenceSession, batch: int, callers: int, seconds: float) -> dict[str, float]:
    """So many callers, each with batches one after another."""
    images = np.random.default_rng(0).integers(0, 256, (batch, 28, 28), dtype=np.uint8)
    name = computes.get_inputs()[0].name
    for _ in range(3):
        computes.run(None, {name: images})
    times: list[list[float]] = [[] for _ in range(callers)]
    begin = time.perf_counter()

    def call(taken: list[float]) -> None:
        while (started := time.perf_counter()) < begin + seconds:
            computes.run(None, {name: images})
            taken.append(time.perf_counter() - started)

    threads = [threading.Thread(target=call, args=(taken,)) for taken in times]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - begin
    every = [seconds for taken in times for seconds in taken]
    return {"samples_per_s": len(every) * batch / elapsed, "p50_ms": statistics.median(every) * 1e3}


def main(models: Path, threads: int) -> None:
    sessions = {
        (model.name, count): session(models, model.name, count)
        for model in sorted(models.iterdir())
        if model.is_dir()
        for count in {1, threads}
    }
    for line in sys.stdin:
        model, batch, seconds = line.split()
        answer = {
            "all_threads": measure(sessions[model, threads], int(batch), 1, float(seconds)),
            "callers": measure(sessions[model, 1], int(batch), threads, float(seconds)),
            "one_thread": measure(sessions[model, 1], int(batch), 1, float(seconds)),
        }
        print(json.dumps(answer), flush=True)  # noqa: T201 - this is how it answers


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
