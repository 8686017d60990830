"""A worker process that runs ONNX Runtime alone, on the models that the server serves.

Each line on standard input is "MODEL BATCH_SIZE SECONDS". The answer is a line of JSON with samples a second and the
median time of a batch: for one session with all threads, and for as many callers as threads on a one-thread session.
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
    """A session on the latest version of a model."""
    versions = sorted((models / model).iterdir(), key=lambda version: int(version.name))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(versions[-1] / "model.onnx", options, providers=["CPUExecutionProvider"])


def measure(session: onnxruntime.InferenceSession, batch: int, callers: int, seconds: float) -> dict[str, float]:
    """Samples a second and the median batch time of several callers, each with one batch after another."""
    images = np.random.default_rng(0).integers(0, 256, (batch, 28, 28), dtype=np.uint8)
    name = session.get_inputs()[0].name
    for _ in range(3):
        session.run(None, {name: images})
    times: list[list[float]] = [[] for _ in range(callers)]
    begin = time.perf_counter()

    def call(durations: list[float]) -> None:
        while (started := time.perf_counter()) < begin + seconds:
            session.run(None, {name: images})
            durations.append(time.perf_counter() - started)

    threads = [threading.Thread(target=call, args=(durations,)) for durations in times]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - begin
    every = [duration for durations in times for duration in durations]
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
        print(json.dumps(answer), flush=True)  # noqa: T201  the answer


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
