"""Calls the server over HTTP with clients that nobody here made: tritonclient, perf_analyzer, KServe's.

Each runs as a process in .venv-peers. That all get the same bits as our own client by gRPC, the tests of each compare.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hangtag.serving.client import Client
from hangtag.training.data.fashion_mnist import Split
from tests.e2e.processes import ROOT, ServerProcess, serving
from tests.e2e.test_nvidia_clients import MODEL, PEERS, SHIPPED, VERSION, statistics

pytestmark = pytest.mark.slow

SCRIPTS = ROOT / "tests/e2e/scripts"
Results = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, garments: Split) -> Path:
    file = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(file, garments.images[:16])
    return file


def results(script: str, server: ServerProcess, images: Path) -> Results:
    """What a script reports of a server, and the logits that it received; beside those of our client."""
    outputs = images.with_name(f"{script}.npz")
    command = [PEERS / "python", SCRIPTS / script, server.http_address, server.address, MODEL, images, outputs]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 0, process.stderr
    with Client(server.address) as client:
        ours = client.infer(MODEL, {"image": np.load(images)})["logits"]
    with np.load(outputs) as arrays:
        return json.loads(process.stdout), {**arrays, "ours": ours}


@pytest.fixture(scope="module")
def triton(models: Path, images: Path) -> Results:
    """Of a server of its own, which has counted no inference yet."""
    with serving(models) as fresh:
        return results("tritonclient_http_calls.py", fresh, images)


@pytest.fixture(scope="module")
def kserve(server: ServerProcess, images: Path) -> Results:
    return results("kserve_calls.py", server, images)


def test_tritonclient_reads_health_and_what_is_served(triton: Results) -> None:
    report, _ = triton
    assert [report[name] for name in ("live", "ready", "model_ready", "unknown_ready")] == [True, True, True, False]
    assert report["http_aio_ready"] == report["grpc_aio_ready"] == [True, True]
    assert "binary_tensor_data" in report["server_metadata"]["extensions"]
    assert report["model_metadata"]["versions"] == [VERSION]
    assert report["model_metadata"]["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 28, 28]}]
    assert report["model_config"]["max_batch_size"] == 64
    assert {(each["name"], each["version"]) for each in report["index"]} == set(SHIPPED.items())
    assert report["statistics"]["model_stats"][0]["inference_count"] == 0


def test_tritonclient_gets_the_bits_that_grpc_gives(triton: Results) -> None:
    report, arrays = triton
    assert [report["response"][key] for key in ("id", "model_name", "model_version")] == ["own", MODEL, VERSION]
    for name in ("binary", "json", "by_default", "gzip", "deflate"):
        assert arrays[name].tobytes() == arrays["ours"].tobytes(), name
    for name in ("concurrent", "http_aio", "grpc_aio"):  # other batches than ours, so equal up to rounding
        np.testing.assert_allclose(arrays[name], arrays["ours"][:8], atol=1e-4)


def test_tritonclient_reads_errors(triton: Results) -> None:
    report, _ = triton
    assert report["wrong_shape"]["status"] == "400"
    assert "UINT8 [any, 28, 28]" in report["wrong_shape"]["message"]
    assert report["unknown_model"]["status"] == "404"
    assert report["unknown_model"]["message"].startswith("no model 'nosuch' is served here")
    assert "--model-control explicit" in report["unload"]["message"]


def test_kserve_s_clients(kserve: Results) -> None:
    report, arrays = kserve
    assert [report[name] for name in ("live", "ready", "model_ready", "unknown_ready")] == [True, True, True, False]
    assert report["grpc_ready"] == [True, True]
    assert report["json"] == report["binary"] == [MODEL, "own"]
    for name in ("rest_binary", "rest_json", "grpc"):
        assert arrays[name].astype(np.float32).tobytes() == arrays["ours"].tobytes(), name
    status, message = report["unknown_model"]
    assert (status, "no model 'nosuch' is served here" in message) == (404, True)


def blocks(language: str) -> list[str]:
    """The examples of docs/http.md."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs/http.md").read_text(), re.DOTALL)


def test_the_examples_of_the_page_about_http_run_as_they_are_written(server: ServerProcess, tmp_path: Path) -> None:
    (health_and_images, any_model), (tritonclient,) = blocks("sh"), blocks("python")

    def run(*command: str | Path) -> str:
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert process.returncode == 0, process.stderr
        return process.stdout

    def here(text: str) -> str:
        return text.replace("127.0.0.1:8000", server.http_address).replace("/tmp/", f"{tmp_path}/")

    answers = [run("bash", "-ec", here(line)) for line in health_and_images.splitlines()]
    ready, lstm, bag, compared, index = (json.loads(answer) for answer in answers[:-1])
    assert (ready, lstm["name"], bag["labels"][0]["label"]) == ({"ready": True}, "lstm", "Bag")
    assert [len(outcome["answer"]["labels"]) for outcome in compared["outcomes"]] == [1, 1]
    assert {each["name"] for each in index} == set(SHIPPED)
    assert "nv_inference_count" in answers[-1]
    answer = json.loads(run("bash", "-ec", here(any_model).replace("python -c", "python3 -c")))
    assert [output["shape"] for output in answer["outputs"]] == [[1, 10], [1, 10]]
    assert (tmp_path / "answer").read_bytes().startswith(b'{"model_name":"lstm"')
    assert len(re.findall(r"0\.\d+", run(PEERS / "python", "-c", here(tritonclient)))) == 10


@pytest.mark.parametrize(
    "options",
    [
        ("--concurrency-range", "4", "-b", "1"),
        ("--concurrency-range", "4", "-b", "8", "--async"),
        ("--concurrency-range", "2", "-b", "1", "--input-tensor-format", "json", "--output-tensor-format", "json"),
    ],
    ids=["binary", "async-batches", "json"],
)
def test_perf_analyzer(server: ServerProcess, options: tuple[str, ...]) -> None:
    before = statistics(server).inference_stats
    window = ("--measurement-mode", "count_windows", "--measurement-request-count", "50", "-p", "100", "-s", "1000")
    command = [PEERS / "perf_analyzer", "-m", MODEL, "-i", "http", "-u", server.http_address, *window, *options]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    after = statistics(server).inference_stats
    assert process.stderr == ""
    assert "fail" not in process.stdout.lower()
    (count,) = re.findall(r"Successful request count: (\d+)", process.stdout)
    assert after.success.count - before.success.count >= int(count) > 0
    assert after.fail.count == before.fail.count
