"""NVIDIA's own clients drive the server: tritonclient and perf_analyzer, each in its own process and environment.

They cannot share ours: tritonclient registers the protocol's names, which our stubs have registered already.
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
from hangtag.serving.model_repository import latest_versions
from hangtag.training.data.fashion_mnist import LABELS, Split
from tests.e2e.processes import ROOT, ServerProcess, serving

PEERS = ROOT / ".venv-peers/bin"
CALLS = ROOT / "tests/e2e/scripts/tritonclient_calls.py"
SHIPPED = {model.name: str(model.version) for model in latest_versions(ROOT / "models")}
MODEL = "lstm"
VERSION = SHIPPED[MODEL]


@pytest.fixture(scope="module")
def peers() -> Path:
    """The peers' environment. Without it these tests fail: nothing else shows that NVIDIA's clients work."""
    for program in ("python", "perf_analyzer"):
        if not (PEERS / program).is_file():
            pytest.fail(f"{PEERS / program} is missing: run 'make test', which sets up the peers' environment")
    return PEERS


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tritonclient") / "answers.npz"


@pytest.fixture(scope="module")
def told(peers: Path, models: Path, garments: Split, answers: Path) -> dict[str, Any]:
    """All that tritonclient was told by a server that nobody else has called: the statistics are of its calls alone."""
    images = answers.with_name("images.npy")
    np.save(images, garments.images[:16])
    with serving(models) as fresh:
        command = [peers / "python", CALLS, fresh.address, MODEL, images, answers]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


def test_tritonclient_sees_the_server_live_and_ready(told: dict[str, Any]) -> None:
    assert (told["live"], told["ready"], told["model_ready"], told["unknown_ready"]) == (True, True, True, False)


def test_tritonclient_reads_the_metadata(told: dict[str, Any]) -> None:
    assert told["server_metadata"]["name"] == "hangtag"
    assert "statistics" in told["server_metadata"]["extensions"]
    assert told["model_metadata"] == {
        "name": MODEL,
        "versions": [VERSION],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": ["-1", "28", "28"]}],
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": ["-1", "10"]},
            {"name": "probabilities", "datatype": "FP32", "shape": ["-1", "10"]},
        ],
    }


def test_tritonclient_reads_the_config(told: dict[str, Any]) -> None:
    config = told["model_config"]["config"]
    assert (config["name"], config["max_batch_size"]) == (MODEL, 64)
    assert config["input"] == [{"name": "image", "data_type": "TYPE_UINT8", "dims": ["28", "28"]}]
    assert [output["dims"] for output in config["output"]] == [["10"], ["10"]]
    assert json.loads(config["parameters"]["hangtag.labels"]["string_value"]) == list(LABELS)


def test_tritonclient_reads_the_repository_index(told: dict[str, Any]) -> None:
    listed = [(model["name"], model["version"], model["state"]) for model in told["index"]["models"]]
    assert sorted(listed) == [(name, version, "READY") for name, version in sorted(SHIPPED.items())]


def test_tritonclient_gets_the_answers_of_our_client(
    told: dict[str, Any], answers: Path, server: ServerProcess, garments: Split
) -> None:
    assert told["response"]["id"] == "whole"
    assert told["only_probabilities"]
    with Client(server.address) as client:
        ours = client.infer(MODEL, {"image": garments.images[:16]})
    with np.load(answers) as theirs:
        np.testing.assert_array_equal(theirs["logits"], ours["logits"])
        np.testing.assert_array_equal(theirs["probabilities"], ours["probabilities"])
        assert len(theirs["flying"]) == 8  # computed in other batches, so equal up to rounding
        np.testing.assert_allclose(theirs["flying"], ours["logits"][:8], atol=1e-4)


def test_tritonclient_streams(told: dict[str, Any], answers: Path, server: ServerProcess, garments: Split) -> None:
    names = [f"streamed_{number}" for number in range(8)]
    bad = told["stream"].pop(4)
    assert told["stream"] == names
    assert re.search("no model 'nosuch' is served here; served: .*lstm", bad)
    with Client(server.address) as client:
        ours = client.infer(MODEL, {"image": garments.images[:8]})["logits"]
    with np.load(answers) as theirs:
        np.testing.assert_allclose(np.concatenate([theirs[name] for name in names]), ours, atol=1e-4)


@pytest.mark.parametrize(
    ("mistake", "status", "message"),
    [
        ("wrong_shape", "INVALID_ARGUMENT", r"'image' has shape \[16, 14, 28\]; .* UINT8 \[any, 28, 28\]"),
        ("wrong_datatype", "INVALID_ARGUMENT", r"'image' is FP32; .* UINT8 \[any, 28, 28\]"),
        ("unknown_model", "NOT_FOUND", r"no model 'nosuch' is served here; served: .*lstm"),
    ],
)
def test_tritonclients_mistakes_get_their_status(told: dict[str, Any], mistake: str, status: str, message: str) -> None:
    assert told[mistake]["status"] == f"StatusCode.{status}"
    assert re.search(message, told[mistake]["message"])


def test_tritonclient_reads_the_statistics(told: dict[str, Any]) -> None:
    """Of the calls that were computed: two of 16 images, eight of one, and eight of one in a stream."""
    (statistics,) = told["statistics"]["model_stats"]
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
        (("--request-rate-range", "50", "--request-distribution", "poisson", "-b", "1"), 1),
        (("--concurrency-range", "4", "-b", "2", "--async", "--streaming"), 2),
    ],
    ids=["closed-loop", "async-batches", "request-rate", "stream"],
)
def test_perf_analyzer(
    peers: Path, server: ServerProcess, tmp_path: Path, options: tuple[str, ...], batch_size: int
) -> None:
    """It measures a throughput, has no failed call to report, and its server-side figures are our statistics."""
    before = statistics(server)
    # It exits with 0 whatever happens, and asks for calm that a busy machine may not have (-s, in percent).
    window = ("--measurement-mode", "count_windows", "--measurement-request-count", "50", "-p", "500", "-s", "1000")
    report = tmp_path / "report.csv"
    command = [
        peers / "perf_analyzer",
        "-m",
        MODEL,
        "-i",
        "grpc",
        "-u",
        server.address,
        "-f",
        report,
        *window,
        *options,
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.stderr == ""
    said = {
        name: int(value)
        for name, value in re.findall(r"(Request count|Inference count|Successful request count): (\d+)", ended.stdout)
    }
    assert said["Request count"] >= 50, ended.stdout
    assert "fail" not in ended.stdout.lower()

    with report.open(newline="") as lines:
        (row,) = csv.DictReader(lines)
    assert float(row["Inferences/Second"]) > 0
    assert float(row["p99 latency"]) >= float(row["p50 latency"]) > 0
    assert float(row["Server Compute Infer"]) > 0
    assert all(float(row[part]) >= 0 for part in ("Server Queue", "Server Compute Input", "Server Compute Output"))

    after = statistics(server)
    requests = after.inference_stats.success.count - before.inference_stats.success.count
    assert after.inference_stats.fail.count == before.inference_stats.fail.count
    # Both of its counts are of the windows that it measured, so neither is more than all that it sent. They do not
    # bound each other: it notes a window's start before it asks for our statistics, and what ends in between counts for
    # its own figure but not for the server's. The longer that question takes, the more there is of it.
    assert requests >= said["Successful request count"] > 0
    assert requests >= said["Request count"]
    assert said["Inference count"] == said["Successful request count"] * batch_size
    assert after.inference_count - before.inference_count == requests * batch_size
    assert after.execution_count - before.execution_count <= requests


def statistics(server: ServerProcess) -> pb.ModelStatistics:
    with grpc.insecure_channel(server.address) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        response = stub.ModelStatistics(pb.ModelStatisticsRequest(name=MODEL), timeout=10)
    (found,) = response.model_stats
    assert isinstance(found, pb.ModelStatistics)
    return found
