"""Bare ONNX Runtime in a separate process, with the same models as the server.

The threads are used in two ways: by one session with all threads, and by as many one-thread sessions as there are
threads. The program reports the throughput of the faster way, and the median batch time of the session that uses all
threads.
"""

import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnxruntime

from hangtag.serving.model_repository import versions

_THREADS = len(os.sched_getaffinity(0))
Bare: TypeAlias = Callable[[str, int, float], dict[str, float]]
"""Takes a model's name, the batch size and the duration in seconds, and returns the measured figures."""


@contextmanager
def bare(models: Path) -> Iterator[Bare]:
    """Start the process, and stop it at the end of the context."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        yield lambda model, batch, seconds: process.submit(_measured, models, model, batch, seconds).result()


@cache
def _session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _measure(session: onnxruntime.InferenceSession, batch: int, callers: int, seconds: float) -> dict[str, float]:
    """Return the samples a second and the median batch time of several callers that send one batch after another."""
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


def _measured(models: Path, model: str, batch: int, seconds: float) -> dict[str, float]:
    file = versions(models, model)[0].path
    all_threads = _measure(_session(file, _THREADS), batch, 1, seconds / 2)
    callers = _measure(_session(file, 1), batch, _THREADS, seconds / 2)
    better = max(all_threads, callers, key=lambda way: way["samples_per_s"])
    return better | {"p50_ms": all_threads["p50_ms"]}  # the p50 of the session with all threads
