"""Runs ONNX Runtime alone, on the models that the server serves, in a worker process.

Each line on the worker's standard input is "MODEL BATCH_SIZE SECONDS". The answer is a line of JSON with samples a
second and the median time of a batch, by the better of two ways to use all threads: one session with all threads, or
as many callers as threads on a one-thread session.
"""

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
import onnxruntime


class Bare:
    """A worker process, which measures one load after another."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def measure(self, model: str, batch: int, seconds: float) -> dict[str, float]:
        """Samples a second (samples_per_s) and the median time of a batch (p50_ms).

        Raises:
            click.ClickException: the process ended.
        """
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{model} {batch} {seconds}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise click.ClickException("the process with bare ONNX Runtime ended; its output is above")
        figures: dict[str, float] = json.loads(answer)
        return figures


@contextmanager
def bare(models: Path, threads: int) -> Iterator[Bare]:
    """A worker process for the time of the context."""
    command = [sys.executable, "-m", "studies.server.peers.bare", str(models), str(threads)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Bare(process)
        assert process.stdin
        process.stdin.close()


def _session(models: Path, model: str, threads: int) -> onnxruntime.InferenceSession:
    """A session on the latest version of a model."""
    versions = sorted((models / model).iterdir(), key=lambda version: int(version.name))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(versions[-1] / "model.onnx", options, providers=["CPUExecutionProvider"])


def _measure(session: onnxruntime.InferenceSession, batch: int, callers: int, seconds: float) -> dict[str, float]:
    """Samples a second and the median batch time of several callers, each with one batch after another."""
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


def _main(models: Path, threads: int) -> None:
    sessions = {
        (model.name, count): _session(models, model.name, count)
        for model in sorted(models.iterdir())
        if model.is_dir()
        for count in {1, threads}
    }
    for line in sys.stdin:
        model, batch, seconds = line.split()
        all_threads = _measure(sessions[model, threads], int(batch), 1, float(seconds) / 2)
        callers = _measure(sessions[model, 1], int(batch), threads, float(seconds) / 2)
        better = max(all_threads, callers, key=lambda way: way["samples_per_s"])
        # For one batch after another, the time with all threads counts.
        print(json.dumps(better | {"p50_ms": all_threads["p50_ms"]}), flush=True)  # noqa: T201  the answer


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]))
