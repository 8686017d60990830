"""``hangtag top`` against a real server, and the arithmetic behind it."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
from click.testing import CliRunner, Result

from hangtag.cli import main
from hangtag.protos import inference_pb2 as pb
from hangtag.serving.client import Client
from hangtag.serving.client.activity import Metrics, Snapshot, activities, quantile
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


@pytest.fixture
def metrics(server: Server) -> Iterator[str]:
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

    monkeypatch.setattr("hangtag.serving.client.top.sleep", work)


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
        (("--metrics", "file:///etc/passwd"), "'file:///etc/passwd' is not the address of metrics"),
    ],
)
def test_what_cannot_be_watched_is_one_line(server: Server, arguments: tuple[str, ...], message: str) -> None:
    result = top(server, *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {message}")
    assert result.stderr.count("\n") == 1
