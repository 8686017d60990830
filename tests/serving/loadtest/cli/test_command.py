import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from hangtag.cli import main
from hangtag.protos import inference_pb2 as pb
from tests.serving.loadtest.fake_server import FakeServer, refuse_one, running

pytestmark = pytest.mark.slow

QUICK = ["--min-duration", "200ms", "--min-query-count", "20", "--blocks", "2", "--warm-up", "0"]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["loadtest", *arguments])


def test_two_models_are_compared_and_reports_written(server: FakeServer, tmp_path: Path) -> None:
    json_file, html_file = tmp_path / "new" / "results.json", tmp_path / "report.html"

    def behaviour(number: int, context: grpc.ServicerContext) -> None:
        if server.requests[-1].model_name == "slow":
            threading.Event().wait(0.01)

    server.behaviour = behaviour
    result = invoke(
        *("fast", "slow", "--server", server.address, "--concurrency", "2", "--rate", "50", *QUICK),
        *("--json", str(json_file), "--html", str(html_file)),
    )
    assert "closed loop, 2 in flight" in result.stdout
    assert "open loop, 50 calls/s" in result.stdout
    assert "slow's p99 at 2 in flight" in result.stdout.replace("\n", " ")
    assert f"wrote {json_file}" in result.stderr.replace("\n", "")
    written = json.loads(json_file.read_text())
    assert len(written["runs"]) == 4
    assert written["server"] == {"address": server.address, "name": "fake", "version": "0.0"}
    assert html_file.read_text().startswith("<!DOCTYPE html>")
    # On a busy machine the open loop may be late, and the exit code 1.
    assert result.exit_code == (0 if written["valid"] else 1)


def test_a_default_run_ends_with_an_open_loop_at_a_derived_rate(server: FakeServer, tmp_path: Path) -> None:
    json_file = tmp_path / "results.json"
    invoke("fast", "--server", server.address, *QUICK, "--json", str(json_file))
    *closed, opened = json.loads(json_file.read_text())["runs"]
    assert [run["load"]["concurrency"] for run in closed] == [1, 8, 64]
    peak = max(run["total"]["throughput"] for run in closed)
    assert 0.4 * peak <= opened["load"]["rate"] <= 0.5 * peak


def test_failed_calls_make_the_exit_code_1_and_are_shown(server: FakeServer) -> None:
    def behaviour(number: int, context: grpc.ServicerContext) -> None:
        if number % 4 == 3:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue is full")

    server.behaviour = behaviour
    result = invoke("fast", "--server", server.address, "--concurrency", "1", *QUICK)
    assert result.exit_code == 1, result.output
    text = result.stdout.replace("\n", " ")
    assert "INVALID fast, 1 in flight:" in text
    assert "RESOURCE_EXHAUSTED: queue is full" in text


def test_images_are_sent(server: FakeServer, tmp_path: Path) -> None:
    Image.fromarray(np.full((28, 28), 77, np.uint8)).save(tmp_path / "grey.png")
    file = tmp_path / "results.json"
    result = invoke(
        *("fast", "--server", server.address, "--concurrency", "1", *QUICK, "--public-api", "--json", str(file)),
        *("--images", str(tmp_path), "--batch-size", "2"),
    )
    assert json.loads(file.read_text())["environment"]["generator"] == "1 process on grpcio's futures"
    assert result.exit_code == 0, result.output
    assert server.requests[0].raw_input_contents[0] == bytes([77]) * 2 * 784
    assert "samples/s" in result.stdout


def test_a_version_that_is_not_served_is_refused_with_those_that_are(server: FakeServer) -> None:
    server.versions = ["4", "2"]
    result = invoke("fast@3", "fast@2", "--server", server.address, *QUICK)
    assert result.exit_code == 1
    message = f"{server.address} does not serve version 3 of 'fast', only 4, 2: "
    assert message in " ".join(result.stderr.split())
    missing = invoke("unknown@3", "--server", server.address, *QUICK)
    assert f"{server.address} has no model 'unknown'; it has fast, slow" in " ".join(missing.stderr.split())


def test_a_server_that_ignores_the_requested_version_is_not_measured(server: FakeServer) -> None:
    server.versions = ["4", "2"]
    server.answer = lambda request: pb.ModelInferResponse(model_name=request.model_name, model_version="4")
    result = invoke("fast@2", "--server", server.address, *QUICK)
    assert result.exit_code == 1
    assert "fast@2 was answered by version 4" in " ".join(result.stderr.split())
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name at least one MODEL or --target."),
        (["cnn@"], "'cnn@' is no version of a model: write MODEL@VERSION"),
        (["cnn", "--concurrency", "1,x"], "'1,x' is not a list of numbers"),
        (["cnn", "--rate", "0"], "--rate must be above 0 calls/s, not 0."),
        (["cnn", "--min-duration", "soon"], "'soon' is not a duration such as 2s"),
        (["cnn", "cnn"], "the targets must differ from each other: cnn, cnn."),
        (["cnn", "--server", "192.0.2.1:8001"], "Ask its owner, then add --yes-load-remote."),
        (["cnn", "--samples", "/nonexistent"], "does not exist"),
        (["cnn", "--server", "127.0.0.1"], "'127.0.0.1' is no address: write HOST:PORT, for example 127.0.0.1:8001."),
        (["cnn", "--server", "grpc://127.0.0.1:8002"], "'grpc://127.0.0.1:8002' is a URL"),
        (["--target", "cnn"], "'cnn' is not a target: write NAME=HOST:PORT/MODEL"),
        (["--target", "a=192.0.2.1:8001/cnn"], "192.0.2.1:8001 is not on this machine"),
        (["cnn", "--find-peak"], "--find-peak searches for the highest rate that keeps --target-latency: give one."),
        (["cnn", "--scenario", "server"], "--scenario server needs --rate, or --find-peak with --target-latency."),
        (["cnn", "--fail-if", "cnn is slow"], "'cnn is slow' is not a condition: write TARGET.METRIC > VALUE"),
        (["cnn", "--fail-if", "cmm.p99 > 1s"], "is about 'cmm', which is not measured: cnn are."),
        (["cnn", "--fail-if", "cnn.p99 > baseline"], "give --baseline FILE.json."),
    ],
)
def test_a_wrong_command_exits_with_2_and_a_reason(arguments: list[str], message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("model", "message"), [("cn", "has no model 'cn'; it has fast, slow"), ("loading", "'loading' is not ready")]
)
def test_a_model_that_cannot_be_measured_exits_with_1(server: FakeServer, model: str, message: str) -> None:
    result = invoke(model, "--server", server.address)
    assert result.exit_code == 1
    assert message in result.stderr


def test_a_wrong_address_exits_with_1() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = invoke("cnn", "--server", f"127.0.0.1:{unused.getsockname()[1]}")
    assert result.exit_code == 1
    assert "no server answers at 127.0.0.1" in result.stderr


def test_another_machine_is_loaded_with_yes_load_remote() -> None:
    # A name that never resolves (RFC 6761): the attempt is what matters.
    result = invoke("cnn", "--server", "nowhere.invalid:1", "--yes-load-remote")
    assert result.exit_code == 1
    assert "the host of nowhere.invalid:1 is unknown" in result.stderr


def test_a_file_that_cannot_be_written_is_reported_before_the_run(server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = invoke(
        *("fast", "--server", server.address, "--concurrency", "1", *QUICK),
        *("--json", str(tmp_path / "file" / "results.json")),
    )
    assert result.exit_code == 1
    assert "cannot write" in result.stderr
    assert server.requests == []


def test_a_file_that_fails_after_the_run_does_not_cost_the_others(server: FakeServer, tmp_path: Path) -> None:
    lost, kept = tmp_path / "lost", tmp_path / "kept.csv"
    server.behaviour = lambda number, context: lost.mkdir() if number == 1 else None  # a folder where a file should be
    result = invoke(
        *("fast", "--server", server.address, "--concurrency", "1", *QUICK), *("--json", str(lost), "--csv", str(kept))
    )
    assert result.exit_code == 1
    assert f"cannot write {lost}" in result.stderr
    assert kept.read_text()


def test_a_condition_that_nothing_measures_is_refused_before_the_run(server: FakeServer) -> None:
    result = invoke("fast", "--server", server.address, *QUICK, "--fail-if", "fast.accuracy < 91 %")
    assert result.exit_code == 2
    assert "add --accuracy" in result.stderr
    assert server.requests == []


def test_ctrl_c_ends_with_a_report_of_the_results_so_far(server: FakeServer, tmp_path: Path) -> None:
    json_file = tmp_path / "results.json"
    enough = threading.Event()
    server.behaviour = lambda number, context: enough.set() if number >= 200 else None
    command = [sys.executable, "-m", "hangtag", "loadtest", "fast"]
    process = subprocess.Popen(
        [*command, "--server", server.address, "--concurrency", "1", "--min-duration", "60", "--json", str(json_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert enough.wait(30)
    os.killpg(process.pid, signal.SIGINT)  # Like a terminal, which signals every process of the group.
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "The test was interrupted: only a part was measured." in stdout
    assert "Traceback" not in stderr
    written = json.loads(json_file.read_text())
    assert written["interrupted"]
    assert written["runs"][0]["total"]["statuses"]["OK"] > 10


def test_one_model_on_several_servers_with_every_extra_measurement(server: FakeServer, tmp_path: Path) -> None:
    with running(FakeServer()) as other:
        files = {name: tmp_path / f"report.{name}" for name in ("json", "csv", "html")}
        result = invoke(
            *("--target", f"a={server.address}/fast", "--target", f"b={other.address}/fast", "--concurrency", "2"),
            *(*QUICK, "--check-caching", "--calibrate", "--processes", "2"),
            *(argument for name, file in files.items() for argument in (f"--{name}", str(file))),
        )
        assert {request.model_name for request in (*server.requests, *other.requests)} == {"fast"}
        assert other.requests
    document = json.loads(files["json"].read_text())
    assert [target["server"]["address"] for target in document["targets"]] == [server.address, other.address]
    assert [run["target"] for run in document["runs"]] == ["a", "b"]
    assert [check["target"] for check in document["caching"]] == ["a", "b"]
    assert document["generator_ceilings"][0]["throughput"] > 0
    assert document["environment"]["generator"] == "2 processes on grpcio's completion queue"
    assert all(run["total"]["server"]["requests"] > 0 for run in document["runs"])
    assert "b and a" in result.stdout or "b's p99" in result.stdout
    assert len(files["csv"].read_text().splitlines()) == 3


def test_a_search_for_the_peak_is_reported(server: FakeServer, tmp_path: Path) -> None:
    quick = ("--min-duration", "100ms", "--min-query-count", "50", "--max-query-count", "100", "--warm-up", "0")
    search = ("--scenario", "server", "--find-peak", "--target-latency", "1us", "--percentile", "90", "--rate", "100")
    file = tmp_path / "results.json"
    result = invoke("fast", "--server", server.address, *quick, *search, "--max-duration", "1", "--json", str(file))
    assert result.exit_code == 1  # Nothing answers within a microsecond.
    # On a busy machine the generator may be late even at these rates, which the sentence then says.
    too_slow, late = "at no rate from 87.4 calls/s on", "could not keep up even at 87.4 calls/s"
    assert too_slow in result.stdout or late in " ".join(result.stdout.split())
    (peak,) = json.loads(file.read_text())["peaks"]
    assert [step["load"]["rate"] for step in peak["steps"]] == [100.0, 87.4]


def test_a_scenario_sets_what_the_command_does_not(server: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    invoke("fast", "--server", server.address, *QUICK, "--scenario", "multi-stream", "--json", str(file))
    settings = json.loads(file.read_text())["scenario"]
    assert (settings["concurrency"], settings["batch_size"], settings["percentile"]) == ([1], 8, 99.0)
    assert list(server.requests[-1].inputs[0].shape) == [8, 28, 28]
    more = ("--batch-size", "2", "--percentile", "95")
    invoke("fast", "--server", server.address, *QUICK, "--scenario", "multi-stream", *more, "--json", str(file))
    settings = json.loads(file.read_text())["scenario"]
    assert (settings["concurrency"], settings["batch_size"], settings["percentile"]) == ([1], 2, 95.0)


def test_the_generator_alone_is_calibrated_without_a_server() -> None:
    result = invoke("--calibrate", "--concurrency", "4")
    assert result.exit_code == 0, result.output
    for protocol in ("gRPC", "HTTP"):
        assert re.search(rf"^{protocol}, 4 in flight: [\d,.]+ calls/s, p50 ", result.stdout, re.MULTILINE)


def test_a_server_that_dies_and_comes_back_is_counted_and_reached_again(tmp_path: Path) -> None:
    """One closed loop sees answers, failures while the server is down, and answers again. The run is INVALID."""
    file = tmp_path / "results.json"
    command = [sys.executable, "-m", "hangtag", "loadtest", "fast"]
    first, again = threading.Event(), threading.Event()
    servicer, second = FakeServer(), FakeServer()
    servicer.behaviour = lambda number, context: first.set() if number == 50 else None
    second.behaviour = lambda number, context: again.set() if number == 50 else None
    with running(servicer):
        limits = ("--min-duration", "30", "--min-query-count", "1000000", "--blocks", "1", "--warm-up", "0")
        process = subprocess.Popen(
            [*command, "--server", servicer.address, "--concurrency", "2", *limits, "--json", str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert first.wait(60)
    refuse_one(servicer.address)
    with running(second, servicer.address):
        assert again.wait(60)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 1, stderr
    (run,) = json.loads(file.read_text())["runs"]
    assert run["total"]["statuses"]["OK"] >= 100
    assert set(run["total"]["statuses"]) > {"OK"}
    assert run["restarted"]
    assert "the server or the model was restarted while it was measured" in " ".join(stdout.split())
    assert "Traceback" not in stderr


def test_help_explains_loads_exit_codes_and_examples() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for word in ("closed loop", "open loop", "Examples:", "Exit code:", "hangtag loadtest lstm cnn --html"):
        assert word in result.stdout
