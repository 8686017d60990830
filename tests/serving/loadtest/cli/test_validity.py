"""The command says why a run is INVALID, and what is no reason. Failed calls and a restart are in test_command."""

import html
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from hangtag.cli import main
from hangtag.protos import inference_pb2 as pb
from hangtag.serving.loadtest.measuring.accuracy import TEST_SET_SIZE
from tests.serving.loadtest.fake_server import FakeServer, running

pytestmark = pytest.mark.slow

QUICK = ("--blocks", "1", "--warm-up", "0", "--min-duration", "100ms", "--min-query-count", "10")


def problems(server: FakeServer, folder: Path, *options: str) -> list[str]:
    """Why the command says that its test and its runs are INVALID; it exits with 1, and prints each reason."""
    file = folder / "results.json"
    result = CliRunner().invoke(
        main, ["loadtest", "fast", "--server", server.address, *QUICK, "--json", str(file), *options]
    )
    assert result.exit_code == 1, result.output
    document = json.loads(file.read_text())
    assert not document["valid"]
    reasons = [*document["problems"], *(problem for run in document["runs"] for problem in run["problems"])]
    printed = " ".join(result.stdout.split())
    assert all(problem in printed for problem in reasons)
    return reasons


@pytest.mark.parametrize("load", [("--concurrency", "1"), ("--rate", "50")])
def test_it_ended_before_its_minima(server: FakeServer, tmp_path: Path, load: tuple[str, str]) -> None:
    limits = ("--min-query-count", "100000", "--max-duration", "200ms")
    early, *others = sorted(problems(server, tmp_path, *load, *limits), key=lambda problem: "too early" not in problem)
    assert "it ended too early, after" in early
    # On a busy machine queries may be late as well.
    assert not others or (load[0] == "--rate" and all("could not keep up" in problem for problem in others))


def test_it_is_too_short_for_its_percentile(server: FakeServer, tmp_path: Path) -> None:
    judged = ("--concurrency", "1", "--target-latency", "1s", "--percentile", "99.99", "--max-duration", "200ms")
    early, short = problems(server, tmp_path, *judged)
    assert "it ended too early" in early
    assert "queries are too few to tell a p99.99 with 99 % confidence: that takes 46,050" in short


def test_the_generator_was_late(server: FakeServer, tmp_path: Path) -> None:
    """No Python process sends at this rate."""
    late = problems(server, tmp_path, "--rate", "100000", "--max-duration", "100ms")
    assert any("the generator could not keep up" in problem for problem in late)


def test_the_accuracy_is_off(server: FakeServer, tmp_path: Path) -> None:
    """The server always answers class 0, and its model's file records 90 %."""
    server.config = pb.ModelConfig(
        max_batch_size=64, parameters={"hangtag.test_accuracy": pb.ModelParameter(string_value="0.9")}
    )

    def always_the_same(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        scores = np.tile(np.eye(10, dtype=np.float32)[0], (request.inputs[0].shape[0], 1))
        response = pb.ModelInferResponse(model_name=request.model_name)
        response.outputs.add(name="probabilities", datatype="FP32", shape=scores.shape)
        response.raw_output_contents.append(scores.tobytes())
        return response

    server.answer = always_the_same
    labels = np.arange(TEST_SET_SIZE) % 10
    np.savez(tmp_path / "test-set.npz", image=np.zeros((TEST_SET_SIZE, 28, 28), np.uint8), labels=labels)
    samples = ("--samples", str(tmp_path / "test-set.npz"), "--accuracy", "--concurrency", "1")
    (problem,) = problems(server, tmp_path, *samples)
    assert problem == ("fast: its accuracy is off: 10.00% through the server, where the model's file says 90.00%")


def test_a_generator_that_takes_the_servers_cpu_time_says_so(tmp_path: Path) -> None:
    """Both are on one CPU, which the server's computing keeps busy."""
    document = tmp_path / "results.json"
    options = ("--concurrency", "4", "--blocks", "1", "--min-duration", "1s", "--json", str(document))
    usable = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(usable)})  # Processes that start from now on inherit it.
        with running(FakeServer()) as server:
            result = CliRunner().invoke(main, ["loadtest", "fast", "--server", server.address, *options])
    finally:
        os.sched_setaffinity(0, usable)
    (run,) = json.loads(document.read_text())["runs"]
    assert run["limited_by_generator"], result.output
    assert run["total"]["cpus_busy"] > 0.9
    assert 0.1 < run["total"]["generator_cpu_share"] < 1
    assert "note fast, 4 in flight: the generator was " in " ".join(result.stdout.split())


@pytest.mark.parametrize("earlier", [[0, 0], [100_000, 0], [0, 100_000]])
def test_servers_that_take_calls_in_turn_behind_one_address_are_not_taken_for_one_that_restarted(
    server: FakeServer, tmp_path: Path, earlier: list[int]
) -> None:
    server.earlier = earlier
    document = tmp_path / "results.json"
    options = (*QUICK, "--concurrency", "2", "--blocks", "2", "--json", str(document))
    result = CliRunner().invoke(main, ["loadtest", "fast", "--server", server.address, *options])
    assert result.exit_code == 0, result.output
    (run,) = json.loads(document.read_text())["runs"]
    assert (run["valid"], run["restarted"], run["counted_in_part"]) == (True, False, True)
    assert [block["server"] for block in (run["total"], *run["blocks"])] == [None] * 3
    assert "several servers may be behind its address" in " ".join(result.stdout.split())


STRANGER = "import os\nif child := os.fork(): print(child, flush=True); os._exit(0)\nos.close(1)\nwhile True: pass"


def test_a_program_that_computes_meanwhile_makes_the_run_doubtful(server: FakeServer, tmp_path: Path) -> None:
    """One for each CPU, none of them a descendant of the load test, which runs beside them."""
    document, page = tmp_path / "results.json", tmp_path / "report.html"
    options = ("--concurrency", "1", "--blocks", "1", "--min-duration", "1s", "--json", str(document))
    with strangers():
        result = CliRunner().invoke(
            main, ["loadtest", "fast", "--server", server.address, *options, "--html", str(page)]
        )
    (run,) = json.loads(document.read_text())["runs"]
    assert run["total"]["others_cpu_share"] > 0.1
    assert (
        run["doubt"] == f"other programs took {run['total']['others_cpu_share']:.0%} of this machine's CPUs meanwhile"
    )
    assert run["valid"]
    assert result.exit_code == 0
    printed = " ".join(result.stdout.split())
    assert f"DOUBTFUL fast, 1 in flight: {run['doubt']}" in printed
    assert "VALID every run measured what it was to measure, but some are doubtful." in printed
    assert run["doubt"] in html.unescape(page.read_text())


def test_blocks_too_short_to_measure_other_programs_are_named_as_the_reason(server: FakeServer) -> None:
    options = ("--concurrency", "1", "--blocks", "2", "--min-query-count", "1", "--warm-up", "10ms")
    command = ("loadtest", "fast", "--server", server.address, *options, "--min-duration")
    short = " ".join(CliRunner().invoke(main, [*command, "50ms"]).stdout.split())
    assert "is not known, since each block took less than 250 ms: raise --min-duration" in short
    enough = " ".join(CliRunner().invoke(main, [*command, "1s"]).stdout.split())
    assert "of this machine's CPUs during a run." in enough


@contextmanager
def strangers() -> Iterator[None]:
    """Programs that compute on every CPU and are no descendants of this process: each one's parent ends at once."""
    started = [
        subprocess.run([sys.executable, "-c", STRANGER], stdout=subprocess.PIPE, check=True, text=True).stdout
        for _ in os.sched_getaffinity(0)
    ]
    try:
        yield
    finally:
        for pid in started:
            os.kill(int(pid), signal.SIGKILL)
