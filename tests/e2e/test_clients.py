"""Third-party clients call the server: tritonclient, perf_analyzer, KServe's clients, and Triton's examples.

Each client runs in a separate process, in .venv-peers. A process cannot import both tritonclient and hangtag's stubs,
because they register the same proto names.
"""

import csv
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hangtag import Client
from hangtag.protos import inference_pb2 as pb
from hangtag.training.data.fashion_mnist import LABELS
from tests.kit import onnx_models
from tests.kit.command import ROOT, Serving, invoke, serving
from tests.kit.shipped import MODELS, latest

PEERS = ROOT / ".venv-peers/bin"
MODEL = "lstm"
VERSION = latest(MODEL).parent.name


def run(*command: str | Path) -> str:
    """Run a program, which must exit with code 0 and print no warning, and return its output."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def answers(script: str, server: Serving, images: Path) -> tuple[Any, dict[str, Any]]:
    """The script's report, and two answers to the same images: the script's, and that of hangtag's own client."""
    outputs = images.with_name(f"{script}.npz")
    place = (server.address, server.http_address, MODEL, images, outputs)
    report = json.loads(run(PEERS / "python", ROOT / "tests/e2e/scripts" / script, *place))
    with Client(server.address) as client, np.load(outputs) as arrays:
        ours = client.infer(MODEL, {"image": np.load(images)})
        return report, {**arrays, "our logits": ours["logits"], "our probabilities": ours["probabilities"]}


@pytest.fixture(scope="module")
def shipped() -> list[tuple[str, str]]:
    """The models and the route on a server of the shipped repository."""
    listed = json.loads(invoke("models", "list", "--models", MODELS, "--json").stdout)
    models = [(each["model"], str(each["version"])) for each in listed if each.get("serves")]
    return sorted([*models, *((each["route"], "1") for each in listed if "route" in each)])


# Calls with tritonclient.


@pytest.fixture(scope="module")
def triton(server: Serving, images: Path) -> tuple[Any, dict[str, Any]]:
    return answers("tritonclient_calls.py", server, images)


def test_tritonclient_reads_what_is_served(triton: tuple[Any, Any], shipped: list[tuple[str, str]]) -> None:
    for over, any_size, sizes in (("grpc", "-1", ["28", "28"]), ("http", -1, [28, 28])):
        report = triton[0][over]
        assert report["ready"] == [True, True, True, False]
        assert report["server_metadata"]["name"] == "hangtag"
        assert "statistics" in report["server_metadata"]["extensions"]
        described = report["model_metadata"]
        assert (described["name"], described["versions"]) == (MODEL, [VERSION])
        assert described["platform"] == "onnxruntime_onnx"
        assert described["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [any_size, *sizes]}]
        assert [output["name"] for output in described["outputs"]] == ["logits", "probabilities"]
        config = report["model_config"] if over == "http" else report["model_config"]["config"]
        assert (config["name"], config["max_batch_size"]) == (MODEL, 64)
        assert config["input"][0]["dims"] == sizes
        assert json.loads(config["parameters"]["hangtag.labels"]["string_value"]) == list(LABELS)
        index = report["index"] if over == "http" else report["index"]["models"]
        assert sorted((each["name"], each["version"]) for each in index) == shipped
        assert {each["state"] for each in index} == {"READY"}
        (counted,) = report["statistics"]["model_stats"]
        assert (counted["name"], counted["version"]) == (MODEL, VERSION)
    assert "binary_tensor_data" in triton[0]["http"]["server_metadata"]["extensions"]
    assert triton[0]["aio"] == {"grpc": [True, True], "http": [True, True]}


def test_tritonclient_gets_the_bits_that_our_client_gets(triton: tuple[Any, dict[str, Any]]) -> None:
    report, arrays = triton
    assert (report["grpc"]["response_id"], report["grpc"]["only_probabilities"]) == ("whole", True)
    response = report["http"]["response"]
    assert [response[key] for key in ("id", "model_name", "model_version")] == ["own", MODEL, VERSION]
    assert arrays["probabilities"].tobytes() == arrays["our probabilities"].tobytes()
    for name in ("grpc", "http_binary", "http_json", "http_by_default", "http_gzip", "http_deflate"):
        assert arrays[name].tobytes() == arrays["our logits"].tobytes(), name
    for over in ("grpc", "http"):  # equal only up to rounding, because the batches differ
        for name in (f"{over}_concurrent", f"{over}_aio"):
            np.testing.assert_allclose(arrays[name], arrays["our logits"][:8], atol=1e-4)


def test_tritonclient_streams(triton: tuple[Any, dict[str, Any]]) -> None:
    report, arrays = triton
    order = list(report["grpc"]["stream"])
    assert "Request for unknown model: 'nosuch' is not served here" in order.pop(4)
    assert order == [str(number) for number in range(8)]
    np.testing.assert_allclose(arrays["grpc_streamed"], arrays["our logits"][:8], atol=1e-4)


# KServe's clients, and the examples of the page about HTTP.


def test_kserves_clients(server: Serving, images: Path) -> None:
    report, arrays = answers("kserve_calls.py", server, images)
    assert [report[name] for name in ("live", "ready", "model_ready", "unknown_ready")] == [True, True, True, False]
    assert report["grpc_ready"] == [True, True]
    assert report["json"] == report["binary"] == [MODEL, "own"]
    for name in ("rest_binary", "rest_json", "grpc"):
        assert arrays[name].astype(np.float32).tobytes() == arrays["our logits"].tobytes(), name
    status, message = report["unknown_model"]
    assert (status, "Request for unknown model: 'nosuch' is not served here" in message) == (404, True)


def test_the_examples_of_the_page_about_http_run_as_they_are_written(
    server: Serving, tmp_path: Path, shipped: list[tuple[str, str]]
) -> None:
    page = (ROOT / "docs/reference/http.md").read_text()
    health_and_images, any_model = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    (tritonclient,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)

    def here(text: str) -> str:
        return text.replace("127.0.0.1:8000", server.http_address).replace("/tmp/", f"{tmp_path}/")

    replies = [run("bash", "-ec", here(line)) for line in health_and_images.splitlines()]
    ready, lstm, bag, compared, index = (json.loads(reply) for reply in replies[:-1])
    assert (ready, lstm["name"], bag["labels"][0]["label"]) == ({"ready": True}, "lstm", "Bag")
    assert [len(outcome["answer"]["labels"]) for outcome in compared["outcomes"]] == [1, 1]
    assert sorted((each["name"], each["version"]) for each in index) == shipped
    assert "nv_inference_count" in replies[-1]
    answer = json.loads(run("bash", "-ec", here(any_model).replace("python -c", "python3 -c")))
    assert [output["shape"] for output in answer["outputs"]] == [[1, 10], [1, 10]]
    assert (tmp_path / "answer").read_bytes().startswith(b'{"model_name":"lstm"')
    assert len(re.findall(r"0\.\d+", run(PEERS / "python", "-c", here(tritonclient)))) == 10


# Measurements with perf_analyzer.


@pytest.mark.parametrize(
    ("over", "options", "batch_size"),
    [
        ("grpc", "--request-rate-range 200 --request-distribution poisson -b 1", 1),
        ("grpc", "--concurrency-range 4 -b 8 --async", 8),
        ("grpc", "--concurrency-range 4 -b 2 --async --streaming", 2),
        ("http", "--concurrency-range 4 -b 8 --async", 8),
        ("http", "--concurrency-range 2 -b 1 --input-tensor-format json --output-tensor-format json", 1),
    ],
    ids=["grpc-request-rate", "grpc-async-batches", "grpc-stream", "http-async-batches", "http-json"],
)
def test_perf_analyzer(server: Serving, tmp_path: Path, over: str, options: str, batch_size: int) -> None:
    """perf_analyzer measures a throughput, reports no failed call, and reads times from the server's statistics."""
    before = statistics(server)
    # -s 1000 accepts measurements that vary by up to 1000 %.
    window = "--measurement-mode count_windows --measurement-request-count 50 -p 100 -s 1000"
    file = tmp_path / "report.csv"
    address = server.address if over == "grpc" else server.http_address
    target = ("-m", MODEL, "-i", over, "-u", address, "-f", file)
    printed = run(PEERS / "perf_analyzer", *target, *window.split(), *options.split())
    assert "fail" not in printed.lower()
    named_counts = re.findall(r"(Request count|Inference count|Successful request count): (\d+)", printed)
    counts = {name: int(value) for name, value in named_counts}
    assert counts["Request count"] >= 50, printed
    with file.open(newline="") as lines:
        (row,) = csv.DictReader(lines)
    assert float(row["Inferences/Second"]) > 0
    assert float(row["p99 latency"]) >= float(row["p50 latency"]) > 0
    assert float(row["Server Compute Infer"]) > 0
    assert all(float(row[part]) >= 0 for part in ("Server Queue", "Server Compute Input", "Server Compute Output"))

    after = statistics(server)
    requests = after.inference_stats.success.count - before.inference_stats.success.count
    assert after.inference_stats.fail.count == before.inference_stats.fail.count
    # perf_analyzer counts requests in measurement windows, so the client's count and the server's count are at most the
    # number of requests sent. The two counts may differ: perf_analyzer starts a window before it requests the server's
    # statistics, so only the client's count includes calls that end in between.
    assert requests >= counts["Successful request count"] > 0
    assert requests >= counts["Request count"]
    assert counts["Inference count"] == counts["Successful request count"] * batch_size
    assert after.inference_count - before.inference_count == requests * batch_size
    assert after.execution_count - before.execution_count <= requests


def statistics(server: Serving) -> pb.ModelStatistics:
    with Client(server.address) as client:
        (counted,) = (each for each in client.statistics() if each.name == MODEL)
    return counted


# Triton's own example clients, in which only the two strings in OUR_WORDS are replaced. ``make triton-examples``
# downloads them from https://github.com/triton-inference-server/client (src/python/examples) into the folder
# TRITON_EXAMPLES. Without this folder, these tests are skipped.

EXAMPLES = Path(os.environ.get("TRITON_EXAMPLES", ROOT / ".triton-examples/src/python/examples"))
# The examples expect Triton's server name, and Triton's message for an unknown model.
OUR_WORDS = {'"triton"': '"hangtag"', "Request for unknown model": "no model"}
NAMES = [
    "simple_grpc_infer_client", "simple_grpc_async_infer_client", "simple_grpc_aio_infer_client",
    "simple_grpc_string_infer_client", "simple_grpc_health_metadata", "simple_grpc_custom_args_client",
    "simple_grpc_keepalive_client", "grpc_explicit_int_content_client", "grpc_explicit_int8_content_client",
    "grpc_explicit_byte_content_client",
    "simple_http_infer_client", "simple_http_async_infer_client", "simple_http_aio_infer_client",
    "simple_http_string_infer_client", "simple_http_health_metadata",
]  # fmt: skip


@pytest.fixture(scope="module")
def examples_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    models = tmp_path_factory.mktemp("models")
    for name, datatype in (("simple", "INT32"), ("simple_int8", "INT8"), ("simple_string", "BYTES")):
        onnx_models.publish(models, name, onnx_models.sum_and_difference(datatype))
    same = "(string[batch, n] INPUT0) => (string[batch, n] OUTPUT0) { OUTPUT0 = Identity(INPUT0) }"
    onnx_models.publish(models, "simple_identity", onnx_models.from_text(same))
    with serving("--models", models, "--port", 0, script=True) as process:
        yield process


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="needs Triton's examples: run 'make triton-examples'")
@pytest.mark.parametrize("example", NAMES)
def test_an_example_of_triton_ends_well(example: str, examples_server: Serving, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    source = (EXAMPLES / f"{example}.py").read_text()
    for theirs, ours in OUR_WORDS.items():
        source = source.replace(theirs, ours)
    script.write_text("import sys\n" + source)  # some examples call sys.exit without importing sys
    address = examples_server.http_address if "http" in example else examples_server.address
    assert "error" not in run(PEERS / "python", script, "-u", address)
