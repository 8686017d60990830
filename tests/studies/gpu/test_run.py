"""The check of a GPU, on the CPU where that is all there is: what it measures is real, on another provider."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hangtag.serving.server.errors import ModelLoadError
from hangtag.serving.server.runtime.providers import CPU, CUDA
from hangtag.serving.server.runtime.session import Runtime
from studies.gpu import run, worker
from tests.kit import onnx_models

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


def has_gpu() -> bool:
    try:
        Runtime(ROOT / "models/cnn/1/model.onnx", provider="cuda")
    except ModelLoadError:
        return False
    return True


def row(**other: Any) -> dict[str, Any]:
    return {"model": "m", "way": "bound", "provider": CUDA, "difference": 0.001, "notes": {}} | other


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        (row(), ""),
        (row(notes={"no_cuda_graphs": "the model has LSTM"}, way="graphs"), ""),
        (row(provider=CPU), f"{CUDA} was requested, {CPU} obtained"),
        (row(difference=0.02), "differs from the CPU by 0.02 of the largest value; allowed: 0.01"),
        (row(difference=math.nan), "differs from the CPU by nan of the largest value; allowed: 0.01"),
        (row(notes={"no_io_binding": "out of memory"}), "no IO binding: out of memory"),
        (row(notes={"no_io_binding": "out of memory"}, way="plain"), ""),
        (
            {"model": "m", "way": "plain", "failure": "the process ended with -6: abort"},
            "the process ended with -6: abort",
        ),
        ({"model": "m", "way": "plain", "skipped": "strings"}, ""),
    ],
)
def test_which_figures_are_a_problem(figures: dict[str, Any], expected: str) -> None:
    assert run.problem(figures, "cuda") == expected


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
def test_without_a_gpu_it_ends_with_one_sentence_and_an_error() -> None:
    command = [sys.executable, "-m", "studies", "gpu", "run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: this machine has nothing to check: CUDA was requested, but ")


def test_the_make_target_exists() -> None:
    dry_run = subprocess.run(["make", "--dry-run", "gpu-check"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "python -m studies gpu run" in dry_run.stdout


def test_every_model_is_measured_in_every_way(tmp_path: Path) -> None:
    models, out = tmp_path / "models", tmp_path / "reports/check.json"
    for name in ("classifier", "recurrent"):
        onnx_models.publish(models, name, getattr(onnx_models, name)())
    arguments = ["--models", str(models), "--provider", "cpu", "--largest", "3", "--runs", "2", "--out", str(out)]
    done = CliRunner().invoke(run.main, arguments)
    assert done.exit_code == 0, done.output
    document = json.loads(out.read_text())
    assert document["provider_asked"] == "cpu"
    rows = {(row["model"], row["way"]): row for row in document["rows"]}
    assert set(rows) == {(model, way) for model in ("classifier", "recurrent") for way in worker.WAYS}
    for way in worker.WAYS:
        measured = rows["classifier", way]
        assert set(measured["latency_ms"]) == {"1", "2", "3"}
        assert all(0 < times["p50"] <= times["p99"] for times in measured["latency_ms"].values())
        assert measured["difference"] < 1e-5
        assert (measured["provider"], measured["problem"]) == (CPU, "")
        assert rows["recurrent", way]["skipped"] == "its requests are not joined into batches"
    assert "no_cuda_graphs" in rows["classifier", "graphs"]["notes"]
    assert "classifier, CUDA graphs: no_cuda_graphs" in done.output.replace("\n", " ")
    assert rows["classifier", "bound"]["notes"] == {}


def test_a_process_that_fails_is_a_problem_with_its_last_line(tmp_path: Path) -> None:
    file = onnx_models.publish(tmp_path / "models", "m", onnx_models.classifier())
    request = {"file": str(file), "way": "plain", "provider": "cpu", "sizes": [1], "runs": 1}
    assert run.run_worker(request)["provider"] == CPU
    file.write_bytes(b"broken")
    failure = run.run_worker(request)["failure"]
    assert failure.startswith("the process ended with 1: ")
    assert "m/1/model.onnx cannot be loaded" in failure
    arguments = ["--models", str(tmp_path / "models"), "--provider", "cpu", "--out", str(tmp_path / "out.json")]
    done = CliRunner().invoke(run.main, arguments)
    assert done.exit_code == 1
    assert "nothing to check" in done.output


def test_answers_that_differ_fail_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx_models.publish(tmp_path / "models", "m", onnx_models.classifier())
    monkeypatch.setattr(run, "LARGEST_DIFFERENCE", -1.0)
    arguments = ["--models", str(tmp_path / "models"), "--provider", "cpu", "--largest", "1", "--runs", "1"]
    done = CliRunner().invoke(run.main, [*arguments, "--out", str(tmp_path / "out.json")])
    assert done.exit_code == 1
    assert "differs from the CPU by" in done.output


def test_a_repository_without_models_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(run.main, ["--models", str(tmp_path / "none"), "--provider", "cpu"])
    assert done.exit_code == 1
    assert "is not a folder" in done.output
