"""Bare ONNX Runtime in a separate process, with the same models as the server.

A request names a model, a batch size and seconds. The answer has samples a second and the median time of a batch, from
the better of two ways to use all threads: one session with all threads, or a one-thread session with as many callers as
threads.
"""

import os
import statistics
import sys
import threading
import time
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime

from hangtag.serving.model_repository import versions
from studies.worker import Worker, answer, worker

_THREADS = len(os.sched_getaffinity(0))


def bare(models: Path) -> AbstractContextManager[Worker]:
    """Start the process, and stop it at the end of the context."""
    return worker([sys.executable, "-m", "studies.bench.peers.bare", models])


@cache
def _session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _measure(session: onnxruntime.InferenceSession, batch: int, callers: int, seconds: float) -> dict[str, float]:
    """Return samples a second and the median batch time of several callers, each of which sends batch after batch."""
    images = np.random.default_rng(0).integers(0, 256, (batch, 28, 28), dtype=np.uint8)
    name = session.get_inputs()[0].name
    for _ in range(3):
        session.run(None, {name: images})
    times: list[list[float]] = [[] for _ in range(callers)]
    begin = time.perf_counter()

    def call(durations: list[float]) -> None:
        while (started := time.perf_counter()) < begin + seconds or not durations:
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


def _answer(model: str, batch: int, seconds: float) -> dict[str, float]:
    file = versions(Path(sys.argv[1]), model)[0].path
    all_threads = _measure(_session(file, _THREADS), batch, 1, seconds / 2)
    callers = _measure(_session(file, 1), batch, _THREADS, seconds / 2)
    better = max(all_threads, callers, key=lambda way: way["samples_per_s"])
    return better | {"p50_ms": all_threads["p50_ms"]}  # For one batch after another, the time with all threads counts.


if __name__ == "__main__":
    answer(_answer)
