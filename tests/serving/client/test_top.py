"""``hangtag top`` against a real server, and the arithmetic behind it."""

import contextlib
import io
import json
import os
import subprocess
import sys
import termios
from collections.abc import Iterator

import numpy as np
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from hangtag.cli import main
from hangtag.protos import inference_pb2 as pb
from hangtag.serving.client import Client
from hangtag.serving.client.top.activity import Metrics, Snapshot, activities, quantile
from hangtag.serving.client.top.keyboard import keyboard
from hangtag.serving.client.top.view import History, view
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.telemetry.http_endpoint import MetricsServer
from hangtag.serving.server.telemetry.prometheus import StateCollector

snapshot = Snapshot.from_statistics


def duration(count: int, ms: float) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=int(ms * 1e6))


def statistics(calls: int, samples: int, batches: int, failed: int = 0) -> pb.ModelStatistics:
    """Each call waited 2 ms and took 1 + 5 + 1 ms."""
    return pb.ModelStatistics(
        name="m",
        version="1",
        inference_count=samples,
        execution_count=batches,
        inference_stats=pb.InferStatistics(
            success=duration(calls, calls * 9),
            fail=duration(failed, 0),
            queue=duration(calls, calls * 2),
            compute_input=duration(calls, calls),
            compute_infer=duration(calls, calls * 5),
            compute_output=duration(calls, calls),
        ),
    )


def test_rates_and_means_cover_the_interval_between_two_snapshots() -> None:
    before = snapshot(100.0, [statistics(1000, 5000, 10)])
    after = snapshot(102.0, [statistics(1100, 5400, 60, failed=4)])
    (row,) = activities(before, after)
    assert (row.calls, row.samples, row.failures, row.batch_size) == (50, 200, 2, 8)
    assert (row.queue_ms, row.compute_ms) == (2, 7)
    assert (row.p50_ms, row.queued) == (None, None)


def test_a_model_that_is_new_or_was_loaded_again_counts_from_nothing() -> None:
    after = snapshot(1.0, [statistics(10, 10, 10)])
    assert activities(snapshot(0.0, []), after) == activities(snapshot(0.0, [statistics(9999, 9999, 9999)]), after)


def test_where_nothing_happened_there_are_no_means() -> None:
    same = statistics(10, 10, 10)
    (row,) = activities(snapshot(0.0, [same]), snapshot(1.0, [same]))
    assert (row.calls, row.batch_size, row.queue_ms, row.compute_ms) == (0, None, None, None)


def test_percentiles_cover_the_interval_between_two_snapshots() -> None:
    key = ("m", "1")
    before = Metrics(latencies={key: {0.001: 100, 0.002: 100, float("inf"): 100}})
    after = Metrics({key: 3}, {key: 8}, {key: {0.001: 100, 0.002: 199, float("inf"): 200}})
    (row,) = activities(
        snapshot(0.0, [statistics(1, 1, 1)], before),
        snapshot(1.0, [statistics(2, 2, 2)], after),
    )
    assert row.p50_ms == pytest.approx(1 + 50 / 99)
    assert row.p99_ms == pytest.approx(2)
    assert (row.queued, row.max_queue_size) == (3, 8)


@pytest.mark.parametrize(
    ("buckets", "part", "expected"),
    [
        ({}, 0.5, None),
        ({1.0: 0, float("inf"): 0}, 0.5, None),
        ({1.0: 10, 2.0: 10, float("inf"): 10}, 0.5, 500),
        ({1.0: 0, 2.0: 10, float("inf"): 10}, 0.9, 1900),
        ({1.0: 5, 2.0: 5, float("inf"): 10}, 0.99, 2000),
    ],
)
def test_a_quantile_is_linear_within_its_bucket(buckets: dict[float, float], part: float, expected: float) -> None:
    assert quantile(buckets, part) == (None if expected is None else pytest.approx(expected))


@pytest.fixture(params=["metrics port", "HTTP port"])
def metrics(server: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "HTTP port":
        yield f"http://{server.http_address}/metrics"
        return
    config = ServerConfig(metrics_port=0)
    http = MetricsServer(config, StateCollector(server.state), lambda: True)
    yield f"http://127.0.0.1:{http.port}/metrics"
    http.close()


def top(server: Server, *arguments: str) -> Result:
    command = ["top", "--server", server.address, "--once", *arguments]
    return CliRunner().invoke(main, command, env={"COLUMNS": "150"})


def busy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three calls of two samples between the two looks, in the place of waiting."""

    def work(_seconds: float) -> None:
        with Client(server.address) as client:
            for _ in range(3):
                client.infer("gather", {"index": np.array([1, 2])})

    monkeypatch.setattr("hangtag.serving.client.top.keyboard.sleep", work)


def test_a_look_as_json(server: Server, metrics: str, monkeypatch: pytest.MonkeyPatch) -> None:
    busy(server, monkeypatch)
    result = top(server, "--json", "--metrics", metrics)
    assert (result.exit_code, result.stderr) == (0, "")
    interval = json.loads(result.stdout)
    assert interval["transports"] == {server.transport.name: 1}
    (gather,) = [model for model in interval["models"] if model["model"] == "gather"]
    assert gather["calls"] * interval["seconds"] == pytest.approx(3)
    assert gather["samples"] * interval["seconds"] == pytest.approx(6)
    assert (gather["batch_size"], gather["queued"], gather["failures"]) == (2, 0, 0)
    assert 0 < gather["p50_ms"] <= gather["p99_ms"]


def test_a_look_as_a_table(server: Server, metrics: str, monkeypatch: pytest.MonkeyPatch) -> None:
    busy(server, monkeypatch)
    plain, with_metrics = top(server), top(server, "--metrics", metrics)
    assert plain.exit_code == with_metrics.exit_code == 0
    assert plain.stdout.startswith(server.address)
    assert [line.split()[0] for line in plain.stdout.splitlines()[2:]] == ["classifier", "gather", "text", "two_inputs"]
    assert "p99" not in plain.stdout
    assert f"workers 1/1   transport {server.transport.name}" in with_metrics.stdout
    assert "0/256" in with_metrics.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--server", "127.0.0.1:9"), "no server answers at 127.0.0.1:9"),
        (("--metrics", "http://127.0.0.1:9/metrics"), "no metrics at http://127.0.0.1:9/metrics: "),
        (("--metrics", "http://127.0.0.1:99999/metrics"), "no metrics at http://127.0.0.1:99999/metrics: "),
        (("--metrics", "file:///etc/passwd"), "'file:///etc/passwd' is not the address of metrics"),
    ],
)
def test_what_cannot_be_watched_is_one_line(server: Server, arguments: tuple[str, ...], message: str) -> None:
    result = top(server, *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {message}")
    assert result.stderr.count("\n") == 1


WIDE = statistics(123_456_789, 987_654_321, 1_000_000, failed=12_345)


def shown(width: int, *, metrics: bool, model: str = "m") -> list[str]:
    """The lines that a terminal of this width shows of a busy model."""
    WIDE.name = model
    after = Metrics({(model, "1"): 200}, {(model, "1"): 256}, {}, 2, 2, {"native": 2}) if metrics else None
    console = Console(width=width, file=io.StringIO(), color_system=None, legacy_windows=False)
    history = History()
    for _ in range(3):
        drawn = view("127.0.0.1:8001", snapshot(0.0, []), snapshot(1000.0, [WIDE], after), width, history)
    with console.capture() as capture:
        console.print(drawn)
    return capture.get().splitlines()


@pytest.mark.parametrize("metrics", [False, True])
@pytest.mark.parametrize("model", ["m", "a-model-with-a-rather-long-name-that-does-not-fit"])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_fits_the_terminal(width: int, metrics: bool, model: str) -> None:
    """Every number is whole; columns are left out, the least important ones first."""
    lines = shown(width, metrics=metrics, model=model)
    assert all(len(line) <= width for line in lines)
    (heads,) = [line for line in lines if line.startswith("model")]
    cells = lines[lines.index(heads) + 1].split()
    assert cells[0][:4] == model[:4]
    assert "123,457" in cells
    assert "12.3" in cells
    assert "calls/s" in heads
    assert "failed/s" in heads
    assert not any("…" in cell for cell in cells[1:])
    if width == 120:
        assert "samples/s" in heads
    if width == 60 and metrics:
        assert "p99 ms" in heads
        assert "queued" not in heads


def test_a_models_name_does_nothing_to_the_terminal() -> None:
    lines = shown(120, metrics=True, model="\x1b[2Jm\nready")
    assert all(line.isprintable() for line in lines)
    assert [line for line in lines if line.startswith("\\x1b[2Jm\\nready ")]


def test_the_history_line_rises_with_the_rate() -> None:
    history = History()
    history.rates.extend([0, 50, 100])
    assert history.line(80) == "▁▅█  at most 100 calls/s"
    assert len(history.line(24)) <= 24
    assert History().line(80) == ""


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """A pseudo-terminal as standard input: the end that a person types at, and the program's."""
    person, program = os.openpty()
    with open(program, closefd=False) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        yield person, program
    os.close(person)
    os.close(program)


def test_q_ends_the_wait_at_once_and_other_keys_do_not(terminal: tuple[int, int]) -> None:
    person, program = terminal
    before = termios.tcgetattr(program)
    with keyboard() as keys:
        os.write(person, b"x")
        assert not keys.quits_within(0.05)
        os.write(person, b"q")
        assert keys.quits_within(60)
    assert termios.tcgetattr(program) == before


def test_the_live_view_ends_with_q(server: Server) -> None:
    """In a real terminal of 60 columns: q is pressed once the table is there."""
    person, program = os.openpty()
    termios.tcsetwinsize(program, (24, 60))
    command = [sys.executable, "-m", "hangtag", "top", "--server", server.address, "--interval", "0.1"]
    with subprocess.Popen(
        command, stdin=program, stdout=program, stderr=program, env=os.environ | {"TERM": "xterm"}
    ) as process:
        os.close(program)
        seen = b""
        while b"gather" not in seen:
            seen += os.read(person, 4096)
        os.write(person, b"q")
        with contextlib.suppress(OSError):  # The terminal closes with its last program.
            while os.read(person, 4096):
                pass
        assert process.wait(30) == 0
    os.close(person)
