"""`hangtag loadtest` over HTTP, and HTTP beside gRPC, against a real server."""

import itertools
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner, Result

from hangtag.cli import main
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models
from tests.kit.live import LiveServer

pytestmark = pytest.mark.slow

QUICK = ["--min-duration", "300ms", "--min-query-count", "20", "--blocks", "2", "--warm-up", "0"]
SCHEMA = json.loads((Path(__file__).parents[4] / "docs/loadtest.schema.json").read_text())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    onnx_models.publish(folder, "classifier", onnx_models.classifier())
    return folder


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    with Server(ServerConfig(models=models, port=0, http_port=0)) as running:
        yield running


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["loadtest", *map(str, arguments)], env={"COLUMNS": "400"})


def measured(tmp_path: Path, *arguments: object) -> tuple[Any, str]:
    """The results as JSON, which fits its schema, and what was printed."""
    file = tmp_path / "results.json"
    result = invoke(*arguments, "--json", file)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    written = json.loads(file.read_text())
    jsonschema.validate(written, SCHEMA)
    return written, result.stdout


@pytest.mark.parametrize("more", [("--calibrate",), ("--method", "classify")], ids=["infer", "classify"])
def test_both_protocols_of_one_model_are_set_side_by_side(
    server: Server, tmp_path: Path, more: tuple[str, ...]
) -> None:
    rest = f"rest=http://{server.http_address}/classifier"
    targets = ("--target", f"grpc={server.address}/classifier", "--target", rest)
    html = tmp_path / "report.html"
    results, text = measured(tmp_path, *targets, "--concurrency", "4", *more, *QUICK, "--html", html)
    assert results["valid"], text
    over_grpc, over_http = results["runs"]
    assert (over_grpc["target"], over_http["target"]) == ("grpc", "rest")
    assert "rest / grpc" in text
    (cost,) = results["transports"]
    assert (cost["grpc"], cost["http"], cost["load"]["concurrency"]) == ("grpc", "rest", 4)
    assert 0 < cost["grpc_seconds"] <= over_grpc["total"]["latency"]["max"]
    assert 0 < cost["http_seconds"] <= over_http["total"]["latency"]["max"]
    sentence = r"At 4 in flight a call spends .{4,9} outside of the model over gRPC \(grpc\) and .{4,9} over HTTP"
    assert re.search(sentence, text)
    assert re.search(sentence, html.read_text())
    assert "HTTP/1.1 on" in results["environment"]["generator"]
    assert "grpcio" in results["environment"]["generator"]
    if "--calibrate" in more:
        assert [ceiling["protocol"] for ceiling in results["generator_ceilings"]] == ["gRPC", "HTTP"]
        assert re.search(r"The generator's own ceiling: \S+ calls/s over HTTP, 4 in flight", text)


def test_an_open_loop_and_accuracy_and_caching(server: Server, tmp_path: Path) -> None:
    images = np.random.default_rng(5).integers(0, 256, (40, 28, 28), np.uint8)
    np.savez(tmp_path / "samples.npz", image=images, labels=onnx_models.logits_of(images).argmax(axis=1))
    results, text = measured(
        tmp_path,
        *("classifier", "--server", f"http://{server.http_address}", "--rate", "50", *QUICK),
        *("--samples", tmp_path / "samples.npz", "--accuracy", "--check-caching"),
    )
    assert "classifier is right on 100.00% of 40 samples" in text
    assert [check["target"] for check in results["caching"]] == ["classifier"]
    (run,) = results["runs"]
    assert run["total"]["statuses"] == {"OK": run["total"]["queries"]}
    assert results["transports"] == []


def busy(live: LiveServer) -> threading.Event:
    """Set once the model has computed 50 batches."""
    computed, many = itertools.count(), threading.Event()
    runtime = live.model("classifier").runtime
    run = runtime.run

    def counted(*arguments: Any, **options: Any) -> Any:
        if next(computed) == 50:
            many.set()
        return run(*arguments, **options)

    runtime.run = counted  # type: ignore[method-assign]
    return many


def test_a_server_that_stops_and_comes_back_is_counted_and_reached_again(models: Path, tmp_path: Path) -> None:
    """One closed loop sees answers, failures while the server is down, and answers again. The run is INVALID."""
    file = tmp_path / "results.json"
    limits = ("--min-duration", "30", "--min-query-count", "1000000", "--blocks", "1", "--warm-up", "0")
    with LiveServer(ServerConfig(models=models, port=0, http_port=0)) as live:
        port, many = live.server.http_port, busy(live)
        url = f"http://{live.server.http_address}"
        arguments = ["classifier", "--server", url, "--concurrency", "2", *limits, "--json", str(file)]
        process = subprocess.Popen(
            [sys.executable, "-m", "hangtag", "loadtest", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert many.wait(60)
    with LiveServer(ServerConfig(models=models, port=0, http_port=port)) as live:
        assert busy(live).wait(60)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1, stderr
    (run,) = json.loads(file.read_text())["runs"]
    assert run["total"]["statuses"]["OK"] >= 100
    assert run["total"]["statuses"]["UNAVAILABLE"] > 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("classifier", "--server", "http://127.0.0.1:9"), 1, "no server answers at http://127.0.0.1:9"),
        (("nobody", "--server", "HTTP"), 1, "has no model 'nobody'; it has classifier"),
        (("classifier@7", "--server", "HTTP"), 1, "does not serve version 7 of 'classifier', only 1"),
        (("classifier", "--server", "http://GRPC"), 1, "if it is a gRPC port, write"),
        (("classifier", "--server", "http://10.0.0.1:8000"), 2, "is not on this machine"),
        (("--target", "x=http:///cnn"), 2, "is not a target"),
        (("classifier", "--server", "HTTP", "--tls-ca", __file__), 1, "is not encrypted: write https://"),
    ],
)
def test_what_cannot_be_measured_is_explained(
    server: Server, arguments: tuple[str, ...], code: int, message: str
) -> None:
    words = {"HTTP": f"http://{server.http_address}", "http://GRPC": f"http://{server.address}"}
    result = invoke(*(words.get(word, word) for word in arguments), *QUICK)
    assert (result.exit_code, message in result.stderr.replace("\n", "")) == (code, True), result.output
