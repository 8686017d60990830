"""Reports, model files and training runs that release 0.1.0 wrote are read, served, resumed and exported now."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner, Result

from hangtag.cli import main
from hangtag.export import exporter
from hangtag.serving.server.runtime.gate_proof import require_proof
from hangtag.training.data.fashion_mnist import Split
from hangtag.training.runs.run import Run
from tests.compatibility.earlier_client import RELEASE

pytestmark = pytest.mark.slow


def hangtag(*arguments: object) -> Result:
    """Run the command, which must succeed."""
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result


def test_reports_of_the_load_test_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = RELEASE / "loadtest-before.json", RELEASE / "loadtest-after.json"
    compared = tmp_path / "compared.json"
    monkeypatch.setenv("HANGTAG_LOADTEST_COMPARE_JSON", str(compared))
    hangtag("loadtest", "compare", before, after, "--html", tmp_path / "compared.html")
    written = json.loads(compared.read_text())
    assert {run["target"] for run in json.loads(before.read_text())["runs"]} == {"lstm-56", "lstm-56-int8"}
    assert "lstm-56-int8" in json.dumps(written)
    assert "lstm-56-int8" in (tmp_path / "compared.html").read_text()


@pytest.mark.parametrize("name", ["lstm-56", "lstm-56-int8", "sums"])
def test_a_model_keeps_its_proof(name: str) -> None:
    require_proof(RELEASE / f"models/{name}/1/model.onnx")


def test_models_are_listed_with_their_provenance() -> None:
    listed = json.loads(hangtag("models", "list", "--models", RELEASE / "models", "--json").stdout)
    assert {(one["model"], one["version"], one["serves"]) for one in listed} == {
        ("lstm-56", 1, True),
        ("lstm-56-int8", 1, True),
        ("sums", 1, True),
    }
    shown = hangtag("models", "show", "lstm-56", "--models", RELEASE / "models").stdout
    assert "TRIAL RUN" in shown
    assert "23.85%" in shown


def test_runs_are_listed_and_shown() -> None:
    at = ("--runs", RELEASE / "runs", "--models", RELEASE / "models")
    finished, stopped = hangtag("runs", "list", *at).stdout.splitlines()[1:]
    assert "23.85%" in finished
    assert "lstm-56 1, lstm-56-int8 1" in finished
    assert "1 of 3" in stopped
    assert "recipe.optimizer" in hangtag("runs", "show", RELEASE / "runs/finished", *at).stdout


def test_a_stopped_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    out = Path(shutil.copytree(RELEASE / "runs/stopped", tmp_path / "stopped"))
    before = json.loads((out / "metrics.json").read_text())["epochs"]
    command = "train lstm-56 --recipe study --epochs 3 --seed 0 --limit 300 --threads 1 --device cpu"
    hangtag(*command.split(), "--out", out)
    epochs = json.loads((out / "metrics.json").read_text())["epochs"]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3]
    assert epochs[:1] == before
    assert epochs[2]["train_loss"] < epochs[0]["train_loss"]


def test_a_finished_run_is_exported_and_makes_the_same_model(garments: Split, tmp_path: Path) -> None:
    published = exporter.export(Run(RELEASE / "runs/finished"), tmp_path, garments.first(300))
    require_proof(published.folder / "model.onnx")
    pixels = garments.images[:64]
    now, before = (
        onnxruntime.InferenceSession(file).run(["logits"], {"image": pixels})[0]
        for file in (published.folder / "model.onnx", RELEASE / "models/lstm-56/1/model.onnx")
    )
    np.testing.assert_allclose(now, before, atol=1e-5)
