"""Calls the server with NVIDIA's clients, tritonclient and perf_analyzer, each as a process in .venv-peers.

They need that environment: tritonclient registers the same proto names as our stubs, so one process cannot import both.
"""

import csv
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import inference_pb2_grpc
from hangtag.serving.client import Client
from hangtag.serving.model_repository import serving_versions
from hangtag.training.data.fashion_mnist import LABELS, Split
from tests.e2e.processes import ROOT, ServerProcess, serving

pytestmark = pytest.mark.slow

PEERS = ROOT / ".venv-peers/bin"
SCRIPT = ROOT / "tests/e2e/scripts/tritonclient_calls.py"
ROUTE = {"fast-and-accurate": "1"}
SHIPPED = {model.name: str(model.version) for model in serving_versions(ROOT / "models")} | ROUTE
MODEL = "lstm"
VERSION = SHIPPED[MODEL]


@pytest.fixture(scope="module")
def peers() -> Path:
    """The programs of .venv-peers. Fails without them, since no other test shows that NVIDIA's clients work."""
    for program in ("python", "perf_analyzer"):
        if not (PEERS / program).is_file():
            pytest.fail(f"{PEERS / program} is missing: run 'make test', which sets up .venv-peers")
    return PEERS


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that the script writes output tensors to."""
    return tmp_path_factory.mktemp("tritonclient") / "outputs.npz"


@pytest.fixture(scope="module")
def report(peers: Path, models: Path, garments: Split, outputs: Path) -> dict[str, Any]:
    """Everything that tritonclient received, from a server of its own: the statistics then count its calls alone."""
    images = outputs.with_name("images.npy")
    np.save(images, garments.images[:16])
    with serving(models) as fresh:
        command = [peers / "python", SCRIPT, fresh.address, MODEL, images, outputs]
        process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 0, process.stderr
    report: dict[str, Any] = json.loads(process.stdout)
    return report


def test_tritonclient_reads_health(report: dict[str, Any]) -> None:
    health = [report[name] for name in ("live", "ready", "model_ready", "unknown_ready")]
    assert health == [True, True, True, False]


def test_tritonclient_reads_the_metadata(report: dict[str, Any]) -> None:
    assert report["server_metadata"]["name"] == "hangtag"
    assert "statistics" in report["server_metadata"]["extensions"]
    assert report["model_metadata"] == {
        "name": MODEL,
        "versions": [VERSION],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": ["-1", "28", "28"]}],
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": ["-1", "10"]},
            {"name": "probabilities", "datatype": "FP32", "shape": ["-1", "10"]},
        ],
    }


def test_tritonclient_reads_the_config(report: dict[str, Any]) -> None:
    config = report["model_config"]["config"]
    assert (config["name"], config["max_batch_size"]) == (MODEL, 64)
    assert config["input"] == [{"name": "image", "data_type": "TYPE_UINT8", "dims": ["28", "28"]}]
    assert [output["dims"] for output in config["output"]] == [["10"], ["10"]]
    assert json.loads(config["parameters"]["hangtag.labels"]["string_value"]) == list(LABELS)


def test_tritonclient_reads_the_repository_index(report: dict[str, Any]) -> None:
    versions = [(model["name"], model["version"], model["state"]) for model in report["index"]["models"]]
    assert sorted(versions) == [(name, version, "READY") for name, version in sorted(SHIPPED.items())]


def test_tritonclient_and_our_client_get_the_same_outputs(
    report: dict[str, Any], outputs: Path, server: ServerProcess, garments: Split
) -> None:
    assert report["response"]["id"] == "whole"
    assert report["only_probabilities"]
    with Client(server.address) as client:
        ours = client.infer(MODEL, {"image": garments.images[:16]})
    with np.load(outputs) as theirs:
        np.testing.assert_array_equal(theirs["logits"], ours["logits"])
        np.testing.assert_array_equal(theirs["probabilities"], ours["probabilities"])
        assert len(theirs["concurrent"]) == 8  # other batches than ours, so equal up to rounding
        np.testing.assert_allclose(theirs["concurrent"], ours["logits"][:8], atol=1e-4)


def test_tritonclient_streams(report: dict[str, Any], outputs: Path, server: ServerProcess, garments: Split) -> None:
    names = [f"streamed_{number}" for number in range(8)]
    refusal = report["stream"].pop(4)
    assert report["stream"] == names
    assert re.search("no model 'nosuch' is served here; served: .*lstm", refusal)
    with Client(server.address) as client:
        ours = client.infer(MODEL, {"image": garments.images[:8]})["logits"]
    with np.load(outputs) as theirs:
        np.testing.assert_allclose(np.concatenate([theirs[name] for name in names]), ours, atol=1e-4)


@pytest.mark.parametrize(
    ("mistake", "status", "message"),
    [
        ("wrong_shape", "INVALID_ARGUMENT", r"'image' has shape \[16, 14, 28\]; .* UINT8 \[any, 28, 28\]"),
        ("wrong_datatype", "INVALID_ARGUMENT", r"'image' is FP32; .* UINT8 \[any, 28, 28\]"),
        ("unknown_model", "NOT_FOUND", r"no model 'nosuch' is served here; served: .*lstm"),
    ],
)
def test_each_invalid_call_gets_its_status(report: dict[str, Any], mistake: str, status: str, message: str) -> None:
    assert report[mistake]["status"] == f"StatusCode.{status}"
    assert re.search(message, report[mistake]["message"])


def test_tritonclient_reads_the_statistics(report: dict[str, Any]) -> None:
    """Computed calls: two with 16 images, eight with one image, and eight with one image in a stream."""
    (statistics,) = report["statistics"]["model_stats"]
    assert (statistics["name"], statistics["version"]) == (MODEL, VERSION)
    assert int(statistics["inference_count"]) == 2 * 16 + 8 + 8
    assert 4 <= int(statistics["execution_count"]) <= 2 + 8 + 8
    assert int(statistics["inference_stats"]["success"]["count"]) == 2 + 8 + 8
    assert int(statistics["inference_stats"]["compute_infer"]["ns"]) > 0


@pytest.mark.parametrize(
    ("options", "batch_size"),
    [
        (("--concurrency-range", "4", "-b", "1"), 1),
        (("--concurrency-range", "4", "-b", "8", "--async"), 8),
        (("--request-rate-range", "200", "--request-distribution", "poisson", "-b", "1"), 1),
        (("--concurrency-range", "4", "-b", "2", "--async", "--streaming"), 2),
    ],
    ids=["closed-loop", "async-batches", "request-rate", "stream"],
)
def test_perf_analyzer(
    peers: Path, server: ServerProcess, tmp_path: Path, options: tuple[str, ...], batch_size: int
) -> None:
    """It measures a throughput, reports no failed call, and its server-side figures come from our statistics."""
    before = statistics(server)
    # Its exit code is always 0, so the test reads its output. -s (percent): accept unstable figures of a busy machine.
    window = ("--measurement-mode", "count_windows", "--measurement-request-count", "50", "-p", "100", "-s", "1000")
    csv_file = tmp_path / "report.csv"
    command = [
        peers / "perf_analyzer",
        "-m",
        MODEL,
        "-i",
        "grpc",
        "-u",
        server.address,
        "-f",
        csv_file,
        *window,
        *options,
    ]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert process.stderr == ""
    counts = {
        name: int(value)
        for name, value in re.findall(
            r"(Request count|Inference count|Successful request count): (\d+)", process.stdout
        )
    }
    assert counts["Request count"] >= 50, process.stdout
    assert "fail" not in process.stdout.lower()

    with csv_file.open(newline="") as lines:
        (row,) = csv.DictReader(lines)
    assert float(row["Inferences/Second"]) > 0
    assert float(row["p99 latency"]) >= float(row["p50 latency"]) > 0
    assert float(row["Server Compute Infer"]) > 0
    assert all(float(row[part]) >= 0 for part in ("Server Queue", "Server Compute Input", "Server Compute Output"))

    after = statistics(server)
    requests = after.inference_stats.success.count - before.inference_stats.success.count
    assert after.inference_stats.fail.count == before.inference_stats.fail.count
    # Both of its counts cover the windows that it measured, so neither exceeds the number of requests sent. Neither
    # bounds the other: it notes the start of a window before it requests our statistics, so a call that ends in between
    # is in the client's count and not in the server's. A slow statistics call widens the gap.
    assert requests >= counts["Successful request count"] > 0
    assert requests >= counts["Request count"]
    assert counts["Inference count"] == counts["Successful request count"] * batch_size
    assert after.inference_count - before.inference_count == requests * batch_size
    assert after.execution_count - before.execution_count <= requests


def statistics(server: ServerProcess) -> pb.ModelStatistics:
    with grpc.insecure_channel(server.address) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        response = stub.ModelStatistics(pb.ModelStatisticsRequest(name=MODEL), timeout=10)
    (model_statistics,) = response.model_stats
    assert isinstance(model_statistics, pb.ModelStatistics)
    return model_statistics
