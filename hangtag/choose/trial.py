"""Serves a few candidates in a separate process on this machine, and load-tests them."""

import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hangtag.choose.candidates import IN_FLIGHT, Candidate
from hangtag.evaluation.subject import Array, EvaluationError
from hangtag.serving.credentials import Credentials
from hangtag.serving.loadtest.measuring.load_test import measure as run_load_test
from hangtag.serving.loadtest.plan.scenario import Scenario, target_of
from hangtag.serving.loadtest.samples.library import LIBRARY_SIZE
from hangtag.serving.model_repository import ROUTE_FILE

_READY = re.compile(r"^(?=.*\bevent=ready\b).*?\baddress=(\S+)")
"""Matches the line of the server's log that contains the server's address."""


def load_test(
    candidates: Sequence[Candidate], rate: float | None, seconds: float, repository: Path, images: Array,
    on_progress: Callable[[str], None], stop: threading.Event,
) -> list[Candidate]:  # fmt: skip
    """Serve candidates, load-test each of them, and return them with the results.

    Each candidate is tested with 64 calls in flight, and, unless ``rate`` is None, at this rate in calls per second.
    Each test takes at least ``seconds``, and sends images that the models have classified before. Raises LoadTestError
    if a generator process failed, and EvaluationError if the server does not start or the test was stopped.
    """
    with tempfile.TemporaryDirectory(prefix="hangtag-choose-") as folder:
        models, file = Path(folder) / "models", Path(folder) / "images.npz"
        names = _publish(repository, models, candidates)
        np.savez(file, images=images[_typical(candidates)])
        with _served(models) as address:
            scenario = Scenario(
                tuple(target_of(name, address) for name in names), concurrency=(IN_FLIGHT,),
                rate=() if rate is None else (rate,), min_duration=seconds, max_duration=max(60.0, 10 * seconds),
            )  # fmt: skip
            results = run_load_test(scenario, Credentials(), stop, on_progress, samples=file)
    if stop.is_set():
        raise EvaluationError("the load test was stopped, so nothing was chosen.")
    tested = []
    for one, name in zip(candidates, names, strict=True):
        runs = [run for run in results.runs if run.target == name]  # closed loops run first
        tested.append(
            replace(
                one,
                throughput=runs[0].throughput,
                p99=runs[-1].total.latency.percentile(99),
                is_predicted=False,
                overloaded=any(run.total.failed for run in runs),
                problems=tuple(reason for run in runs for reason in run.invalid),
                doubt=next((run.doubt for run in runs if run.doubt), ""),
            )
        )
    return tested


def _publish(repository: Path, models: Path, candidates: Sequence[Candidate]) -> list[str]:
    """Link the candidates' models into a new repository with a route for each cascade. Return each candidate's name."""
    members = {model.file.name for candidate in candidates for model in candidate.models}
    models.mkdir()
    for name in members:
        (models / name).symlink_to((repository / name).absolute())
    names = []
    for number, candidate in enumerate(candidates, start=1):
        name = candidate.models[0].name
        if candidate.is_cascade:
            name = f"{max(members, key=len)}-cascade-{number}"  # longer than the name of any model
            (models / name).mkdir()
            (models / name / ROUTE_FILE).write_text(candidate.route())
        names.append(name)
    return names


def _typical(candidates: Sequence[Candidate]) -> npt.NDArray[np.int64]:
    """Return the indices of images for the load test. All images are sorted by the first models' average confidence,
    and evenly spaced ones are taken. So a cascade sends the same share of them to the next model as of all images."""
    first = {candidate.models[0].name: candidate.models[0].confidence for candidate in candidates}
    order = np.argsort(np.mean(list(first.values()), axis=0), kind="stable")
    count = min(LIBRARY_SIZE, len(order))
    chosen: npt.NDArray[np.int64] = order[(2 * np.arange(count) + 1) * len(order) // (2 * count)]
    return chosen


@contextmanager
def _served(models: Path) -> Iterator[str]:
    """Run ``hangtag serve`` for a repository in a separate process on a free port, and yield HOST:PORT. If the server
    does not start, raise EvaluationError with the last line of the server's log."""
    ports = ("--port", "0", "--http-port", "-1", "--metrics-port", "-1")
    command = [sys.executable, "-m", "hangtag", "serve", "--models", str(models), "--num-versions", "100", *ports]
    # Ctrl-C must not stop the server before the load test has ended, so the server gets a process group of its own.
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, process_group=0
    ) as process:
        try:
            assert process.stderr is not None
            line = "the server wrote nothing"
            for line in process.stderr:
                if ready := _READY.search(line):
                    break
            else:
                raise EvaluationError(f"the server for the load test did not start: {line.strip()}")
            # A pipe that nobody reads would become full, and block the server.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield ready[1]
        finally:
            process.terminate()
