import json
import os
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

from serving.loadtest.cli import loadtest
from tests.serving.loadtest.fake_server import FakeServer

QUICK = ["--min-duration", "200ms", "--min-query-count", "20", "--blocks", "2", "--warm-up", "0"]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(loadtest, list(arguments))


def test_two_models_are_compared_and_written_down(server: FakeServer, tmp_path: Path) -> None:
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
    # A machine that is busy with other things may make an open loop late; then the code has to say so.
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


def test_images_are_what_is_sent(server: FakeServer, tmp_path: Path) -> None:
    Image.fromarray(np.full((28, 28), 77, np.uint8)).save(tmp_path / "grey.png")
    result = invoke(
        *("fast", "--server", server.address, "--concurrency", "1", *QUICK),
        *("--images", str(tmp_path), "--batch-size", "2"),
    )
    assert result.exit_code == 0, result.output
    assert server.requests[0].raw_input_contents[0] == bytes([77]) * 2 * 784
    assert "samples/s" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name at least one MODEL or --target."),
        (["cnn", "--concurrency", "1,x"], "'1,x' is not a list of numbers"),
        (["cnn", "--rate", "0"], "a request rate is above 0 calls/s, not 0."),
        (["cnn", "--min-duration", "soon"], "'soon' is not a duration such as 2s"),
        (["cnn", "cnn"], "targets names something twice: cnn, cnn."),
        (["cnn", "--server", "192.0.2.1:8001"], "Ask its owner, then add --yes-load-remote."),
        (["cnn", "--samples", "/nonexistent"], "does not exist"),
        (["--target", "cnn"], "'cnn' is not a target: write NAME=HOST:PORT/MODEL"),
        (["--target", "a=192.0.2.1:8001/cnn"], "192.0.2.1:8001 is not on this machine"),
        (["cnn", "--find-peak"], "find_peak searches for the highest rate that keeps a target_latency: give one."),
        (["cnn", "--scenario", "server"], "the server scenario needs a rate"),
        (["cnn", "--fail-if", "cnn is slow"], "'cnn is slow' is not a condition: write TARGET.METRIC > VALUE"),
        (["cnn", "--fail-if", "cmm.p99 > 1s"], "is about 'cmm', which is not measured: cnn are."),
        (["cnn", "--fail-if", "cnn.p99 > baseline"], "give --baseline FILE.json."),
    ],
)
def test_a_wrong_command_exits_with_2_and_says_why(arguments: list[str], message: str) -> None:
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


def test_another_machine_is_loaded_when_its_owner_was_asked() -> None:
    # A name that never resolves (RFC 6761): what matters is that it was tried.
    result = invoke("cnn", "--server", "nowhere.invalid:1", "--yes-load-remote")
    assert result.exit_code == 1
    assert "no server answers at nowhere.invalid:1" in result.stderr


def test_a_file_that_cannot_be_written_is_said_after_the_table(server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = invoke(
        *("fast", "--server", server.address, "--concurrency", "1", *QUICK),
        *("--json", str(tmp_path / "file" / "results.json")),
    )
    assert result.exit_code == 1
    assert "1 in flight" in result.stdout
    assert "cannot write" in result.stderr


def test_ctrl_c_ends_with_a_report_of_what_there_is(server: FakeServer, tmp_path: Path) -> None:
    json_file = tmp_path / "results.json"
    enough = threading.Event()
    server.behaviour = lambda number, context: enough.set() if number >= 200 else None
    command = [sys.executable, "-c", "from serving.loadtest.cli import loadtest; loadtest()", "fast"]
    process = subprocess.Popen(
        [*command, "--server", server.address, "--concurrency", "1", "--min-duration", "60", "--json", str(json_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert enough.wait(30)
    os.killpg(process.pid, signal.SIGINT)  # As a terminal does: to every process of the group.
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "The test was interrupted: this is what there was." in stdout
    assert "Traceback" not in stderr
    written = json.loads(json_file.read_text())
    assert written["interrupted"]
    assert written["runs"][0]["total"]["statuses"]["OK"] > 10


def test_help_teaches() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for word in ("closed loop", "open loop", "Examples:", "Exit code:", "hangtag loadtest lstm cnn --html"):
        assert word in result.stdout
