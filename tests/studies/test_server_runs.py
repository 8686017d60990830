"""Even a short run of a server study, as in `make studies-check`, records all results that the study's page needs."""

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
import pytest

from hangtag.protos import inference_pb2 as pb
from hangtag.training.data.dataset import Split
from studies import results
from studies.bench import h2load, http, routes, server, systems
from studies.bench.peers.triton import ENVIRONMENT
from studies.bench.process import served
from studies.page import ROOT
from studies.soak import report as soak_report
from studies.stubs import InferenceStub
from tests.kit import onnx_models
from tests.kit.shipped import MODELS, latest
from tests.studies.run_study import measured, repository, study

pytestmark = [pytest.mark.studies, pytest.mark.timeout(900)]

ONE_ROUND = ("--rounds", "1", "--seconds", "0.2")


def plausible(figures: results.Line) -> bool:
    """Return whether the results are plausible: more than 10 calls a second, and positive latencies."""
    return bool(figures["samples_per_s"] > 10 and 0 < figures["p50_ms"] <= figures["p99_ms"])


@pytest.fixture(scope="module")
def lstm_and_cnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models that the studies of servers call."""
    return repository(tmp_path_factory.mktemp("studies") / "models", "lstm", "cnn")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


@pytest.mark.parametrize(
    ("names", "loads"),
    [("native,native-2,grpc,tls,minimal,bare", "1,start"), ("native,bare", "poisson,overload")],
    ids=str,
)
def test_server_measures_systems_in_turns(lstm_and_cnn: Path, out: Path, names: str, loads: str) -> None:
    words = ("server", "run", "--only", names, "--loads", loads, *ONE_ROUND, "--models", lstm_and_cnn)
    lines, text = measured(out, server.COMPARISON.part, *words)
    assert list(lines) == ["conditions", "round 1"]
    turn = lines["round 1"]
    if "start" in loads:
        assert all(plausible(turn[name][model]["1"]) for name in names.split(",")[:-1] for model in ("lstm", "cnn"))
        assert turn["native-2"]["start"]["pss_mb"] > 1.5 * turn["native"]["start"]["pss_mb"] > 15
        assert turn["bare"]["lstm"]["batch"]["samples_per_s"] > 10
        assert "| lstm, 1 in flight, p50, ms |" in text
    else:
        overload = turn["native"]["cnn"]["overload"]
        assert 0 <= turn["native"]["cnn"]["poisson"]["share"] <= 1
        assert overload["in_time_share"] >= 0 <= overload["gained_mb"]


def test_http_measures_binary_and_json_requests_the_minimal_server_and_grpc(lstm_and_cnn: Path, out: Path) -> None:
    words = ("http", "run", "--only", "http,json,minimal,grpc", *ONE_ROUND, "--models", lstm_and_cnn)
    lines, text = measured(out, http.COMPARISON.part, *words)
    for system in ("http", "json", "minimal", "grpc"):
        loads = lines["round 1"][system]["lstm"]
        assert list(loads) == ["1", "4", "16", "64"]
        assert all(map(plausible, loads.values()))
    assert "| lstm, 64 in flight, images/s | http | ≥ 1.6 x fastapi | not measured |" in text


def test_routes_measures_the_cascade_the_split_and_the_shadow(garments: Split, tmp_path: Path, out: Path) -> None:
    samples = tmp_path / "garments.npz"
    np.savez(samples, image=garments.images[:200], labels=garments.classes[:200])
    words = ("routes", "run", *ONE_ROUND, "--calls", "1000", "--models", MODELS, "--samples", samples)
    lines, text = measured(out, routes.part, *words)
    turn = lines["round 1"]
    for system in routes.MEMBERS:
        assert all(plausible(turn[system]["cascade"][load]) for load in ("1", "4", "16", "64"))
        accuracy = turn[system]["cascade"]["accuracy"]
        assert 0.85 < accuracy["share"] <= 1
        assert accuracy["images"] == 200
    split, alone = turn["split"]["split"]["calls"], turn["alone"]["shadow"]["half"]
    assert sum(split["counts"].values()) == 1000
    assert split["deviations"] < 5  # by chance, about 1 run in 1,000,000 exceeds this limit
    assert alone["rate_per_s"] == pytest.approx(alone["peak_per_s"] / 2, rel=1e-3)
    assert 0 < turn["shadowed"]["shadow"]["half"]["copied"] <= 1
    assert "Of 1,000 calls to the split, " in text


def test_soak_records_what_it_measured_when_it_is_interrupted(out: Path) -> None:
    """Within the first minute, the study kills a worker of each server. Then the test interrupts the study."""
    options = ["--rate", "60", "--version-seconds", "5", "--kill-seconds", "15"]
    command = [sys.executable, "-m", "studies", "soak", "run", "--minutes", "20", *options, "--out", str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        assert any("1 minutes: " in line for line in process.stdout)
        process.terminate()
        output, _ = process.communicate()
    assert process.returncode == 0, output
    (line,) = results.read(out).values()
    assert (line["wrong"], line["problems"], line["log_errors"]) == (0, [], []), output
    assert line["interrupted"]
    assert line["calls"] > 50
    assert {kill["server"] for kill in line["kills"]} == {"trusted", "exposed"}
    assert line["model_versions"] >= 1
    for processes in line["processes"].values():
        assert processes["worker 1"]["lived_on"]
        assert processes["supervisor"]["rss_mb"][0] > 20
    assert "which Ctrl-C ended early" in soak_report.text(out)


def test_gpu_checks_itself_on_the_cpu(tmp_path: Path) -> None:
    onnx_models.publish_all(tmp_path / "models", "classifier", "recurrent")
    sizes = ("--provider", "cpu", "--largest", "3", "--runs", "2", "--out", tmp_path / "check.json")
    output = study("gpu", "run", "--models", tmp_path / "models", *sizes)
    rows = {(row["model"], row["way"]): row for row in json.loads((tmp_path / "check.json").read_text())["rows"]}
    for way in ("plain", "bound", "graphs"):
        row = rows["classifier", way]
        assert set(row["latency_ms"]) == {"1", "2", "3"}
        assert all(0 < times["p50"] <= times["p99"] for times in row["latency_ms"].values())
        assert row["difference"] < 1e-5
        assert (row["provider"], row["problem"]) == ("CPUExecutionProvider", "")
        assert rows["recurrent", way]["skipped"]
    assert "no_cuda_graphs" in rows["classifier", "graphs"]["notes"]
    assert "no_cuda_graphs" in output
    (tmp_path / "models/recurrent/1/model.onnx").write_bytes(b"broken")
    output = study("gpu", "run", "--models", tmp_path / "models", *sizes, exit_codes=(1,))
    assert "recurrent, CUDA graphs: ModelLoadError: " in output


@pytest.mark.parametrize(
    "system",
    [
        "minimal",
        pytest.param("triton", marks=pytest.mark.skipif(not (ENVIRONMENT / ".triton").exists(), reason="make triton")),
    ],
)
def test_a_system_that_is_compared_answers_as_onnx_runtime_does(system: str) -> None:
    request = pb.ModelInferRequest.FromString(h2load.message("lstm", 3)[5:])
    with ExitStack() as stack:
        running = stack.enter_context(served(stack.enter_context(systems.SERVER[system].launch(MODELS))))
        with grpc.insecure_channel(running.address) as channel:
            answer = InferenceStub(channel).ModelInfer(request, timeout=30)
        assert running.answered("lstm") == 1
    images = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(3, 28, 28)
    expected = onnxruntime.InferenceSession(latest("lstm")).run(None, {"image": images})
    for raw, array in zip(answer.raw_output_contents, expected, strict=True):
        np.testing.assert_allclose(np.frombuffer(raw, np.float32).reshape(3, 10), array, rtol=1e-4, atol=1e-4)
