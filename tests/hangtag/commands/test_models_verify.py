"""``hangtag models verify``: figures that still hold, and figures that do not."""

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from hangtag.export import exporter
from hangtag.training.data import fashion_mnist as data
from hangtag.training.data.fashion_mnist import Split
from tests.hangtag.proven import models, proven_on, rewritten
from tests.kit import label_sets
from tests.kit.exported import Exported
from tests.kit.onnx_models import classifier, publish
from tests.kit.shipped import MODELS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def few(garments: Split) -> Split:
    return garments.first(300)


@pytest.fixture(autouse=True)
def few_images(few: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """These few take the test set's place, also for the proven model below."""
    monkeypatch.setattr(data, "load_test", lambda *_: few)


@pytest.fixture(scope="module")
def proven(exported: Exported, few: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return proven_on(exported, few, tmp_path_factory.mktemp("proven"))


@pytest.mark.parametrize(
    ("key", "value", "broken"),
    [
        ("precision", "bf16", {"metadata": "precision is 'bf16', not fp32 or fp16 or int8"}),
        ("task", "other", {"metadata": "task is 'other', not single_label or multi_label"}),
        ("training", "[1]", {"metadata": "training holds no config"}),
        ("gate", "[1]", {"parity": "cannot be read", "agreement": "cannot be read", "batching": "cannot be read"}),
    ],
)
def test_strange_metadata_do_not_hold(
    key: str, value: str, broken: dict[str, str], proven: Path, tmp_path: Path
) -> None:
    result = models("verify", "--models", rewritten(proven, tmp_path, **{key: value}), "--json")
    assert result.exit_code == 1, result.output
    ((verified),) = json.loads(result.stdout)
    summaries = {finding["check"]: finding["said"] for finding in verified["findings"] if finding["holds"] is False}
    assert list(summaries) == list(broken)
    for check, part in broken.items():
        assert part in summaries[check]


def test_recorded_figures_still_hold(proven: Path) -> None:
    result = models("verify", "--models", proven, "--json")
    assert result.exit_code == 0, result.output
    ((verified),) = json.loads(result.stdout)
    findings: dict[str, Any] = {finding["check"]: finding for finding in verified["findings"]}
    assert list(findings) == [
        "file",
        "structure",
        "parity",
        "data",
        "agreement",
        "calibration",
        "batching",
        "empty batch",
    ]
    assert all(finding["holds"] is True for finding in findings.values()), findings
    assert findings["agreement"]["said"].endswith("100.00% of the answers are PyTorch's (recorded 100.00%)")
    assert "(recorded " in findings["parity"]["said"]
    assert " holds " in models("verify", "lstm", "--models", proven).stdout


def without_calibration(proven: Path, models_dir: Path) -> Path:
    """The proven model as it was exported before the gate measured the calibration error."""
    metadata = {entry.key: entry.value for entry in onnx.load(proven / "lstm/1/model.onnx").metadata_props}
    gate = json.loads(metadata["hangtag.gate"])
    del gate["calibration"]
    return rewritten(proven, models_dir, gate=json.dumps(gate))


def gate_of(models_dir: Path) -> Any:
    return json.loads(models("show", "lstm", "--models", models_dir, "--json").stdout)["gate"]


def test_a_calibration_error_that_the_gate_did_not_measure_is_recorded_beside_the_file(
    proven: Path, tmp_path: Path
) -> None:
    older = without_calibration(proven, tmp_path)
    file = older / "lstm/1/model.onnx"
    before = file.read_bytes()
    assert "calibration" not in gate_of(older)
    result = models("verify", "--models", older, "--record", "--json")
    assert result.exit_code == 0, result.output
    assert file.read_bytes() == before
    assert gate_of(older)["calibration"] == gate_of(proven)["calibration"]
    assert "gate: calibration" in models("show", "lstm", "--models", older).stdout
    ((verified),) = json.loads(models("verify", "--models", older, "--json").stdout)
    (finding,) = [finding for finding in verified["findings"] if finding["check"] == "calibration"]
    assert finding["holds"] is True
    written = file.with_name("calibration.json")
    figures = json.loads(written.read_text())
    written.write_text(json.dumps(figures | {"gate": {"calibration": {"expected_calibration_error": 0.5}}}))
    assert models("verify", "--models", older).exit_code == 1
    for other in (json.dumps(figures | {"graph_digest": "another's"}), json.dumps(figures | {"gate": 1}), "[", "1"):
        written.write_text(other)
        assert "calibration" not in gate_of(older)


def test_nothing_is_recorded_where_a_figure_does_not_hold_or_all_are_there(proven: Path, tmp_path: Path) -> None:
    models_dir = change(without_calibration(proven, tmp_path / "older"), tmp_path / "changed", 1.01)
    assert models("verify", "--models", models_dir, "--record").exit_code == 1
    assert models("verify", "--models", proven, "--record").exit_code == 0
    for folder in (models_dir, proven):
        assert not (folder / "lstm/1/calibration.json").exists()


def test_a_folder_that_cannot_be_written_is_named(proven: Path, tmp_path: Path) -> None:
    older = without_calibration(proven, tmp_path)
    (older / "lstm/1/calibration.json").mkdir()
    result = models("verify", "--models", older, "--record")
    assert result.exit_code == 1
    assert "calibration.json cannot be written: Is a directory" in result.output


def change(proven: Path, models_dir: Path, scale: float) -> Path:
    """The proven model with its dense layer's weights multiplied."""
    model = onnx.load(proven / "lstm/1/model.onnx")
    (weights,) = [tensor for tensor in model.graph.initializer if tensor.name == "network.classifier.weight"]
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * scale, weights.name))
    publish(models_dir, "lstm", model)
    return models_dir


@pytest.mark.parametrize(
    ("scale", "broken"), [(1.001, {"file", "parity"}), (-1.0, {"file", "parity", "agreement"})], ids=["louder", "other"]
)
def test_changed_weights_are_detected(proven: Path, tmp_path: Path, scale: float, broken: set[str]) -> None:
    changed = change(proven, tmp_path, scale)
    result = models("verify", "--models", changed, "--json")
    assert result.exit_code == 1
    ((verified),) = json.loads(result.stdout)
    assert {finding["check"] for finding in verified["findings"] if finding["holds"] is False} >= broken
    assert "DOES NOT HOLD" in models("verify", "--models", changed).stdout


@pytest.mark.parametrize("off", [-0.01, 0.01])
def test_an_accuracy_that_is_not_the_recorded_one_does_not_hold(proven: Path, tmp_path: Path, off: float) -> None:
    model = onnx.load(proven / "lstm/1/model.onnx")
    (entry,) = [entry for entry in model.metadata_props if entry.key == "hangtag.test_accuracy"]
    entry.value = f"{float(entry.value) + off:.4f}"
    publish(tmp_path, "lstm", model)
    ((verified),) = json.loads(models("verify", "--models", tmp_path, "--json").stdout)
    broken = [finding["check"] for finding in verified["findings"] if finding["holds"] is False]
    assert broken == ["agreement"], verified


@pytest.mark.parametrize("figure", ["accuracy", "agreement"])
def test_a_figure_of_the_gate_that_is_another_now_does_not_hold(proven: Path, tmp_path: Path, figure: str) -> None:
    model = onnx.load(proven / "lstm/1/model.onnx")
    (entry,) = [entry for entry in model.metadata_props if entry.key == "hangtag.gate"]
    gate = json.loads(entry.value)
    gate["agreement"][figure] -= 0.05
    entry.value = json.dumps(gate)
    publish(tmp_path, "lstm", model)
    ((verified),) = json.loads(models("verify", "--models", tmp_path, "--json").stdout)
    assert [finding["check"] for finding in verified["findings"] if finding["holds"] is False] == ["agreement"]


def test_figures_of_the_gate_that_are_gone_do_not_hold(proven: Path, tmp_path: Path) -> None:
    model = onnx.load(proven / "lstm/1/model.onnx")
    others = [entry for entry in model.metadata_props if entry.key != "hangtag.gate"]
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in others})
    publish(tmp_path, "lstm", model)
    ((verified),) = json.loads(models("verify", "--models", tmp_path, "--json").stdout)
    broken = {finding["check"]: finding["said"] for finding in verified["findings"] if finding["holds"] is False}
    assert broken["parity"] == "what is recorded cannot be read: the gate's figures about parity are missing"


def test_a_data_set_that_is_not_the_recorded_one_does_not_hold(proven: Path, tmp_path: Path) -> None:
    model = onnx.load(proven / "lstm/1/model.onnx")
    (entry,) = [entry for entry in model.metadata_props if entry.key == "hangtag.data_digest"]
    entry.value = "0f" * 32
    publish(tmp_path, "lstm", model)
    ((verified),) = json.loads(models("verify", "--models", tmp_path, "--json").stdout)
    broken = {finding["check"]: finding["said"] for finding in verified["findings"] if finding["holds"] is False}
    assert list(broken) == ["data"]
    assert broken["data"].startswith("it was trained on another data set: SHA-256 0f0f0f0f0f0f, here d1fd84a877f3")


def test_a_file_that_cannot_be_loaded_does_not_hold(tmp_path: Path) -> None:
    publish(tmp_path, "broken", classifier()).write_bytes(b"")
    result = models("verify", "--models", tmp_path)
    assert result.exit_code == 1
    assert "DOES NOT HOLD file" in " ".join(result.stdout.split())


def test_references_that_cannot_be_read_do_not_hold(proven: Path, tmp_path: Path) -> None:
    model = onnx.load(proven / "lstm/1/model.onnx")
    for entry in model.metadata_props:
        if entry.key == "hangtag.reference":
            entry.value = "{"
    publish(tmp_path, "lstm", model)
    result = models("verify", "--models", tmp_path)
    assert result.exit_code == 1
    assert "what is recorded cannot be read" in " ".join(result.stdout.split())


def test_sets_of_labels_are_verified_too(tmp_path: Path) -> None:
    garments = data.load_test().first(300)
    run = label_sets.finished(tmp_path / "run", "sigmoids", label_sets.decisive_scores("sigmoids", garments))
    exporter.export(run, tmp_path / "models", data.load_test(), canvases=100)
    result = models("verify", "--models", tmp_path / "models", "--json")
    assert result.exit_code == 0, result.output
    ((verified),) = json.loads(result.stdout)
    assert [finding["check"] for finding in verified["findings"] if finding["holds"]] == [
        "file", "structure", "parity", "batching", "empty batch",
    ]  # fmt: skip


def test_a_file_that_is_older_than_the_gate_is_verified_by_its_few_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()  # its figure is of the whole test set
    result = models("verify", "lstm", "--models", MODELS)
    assert result.exit_code == 0, result.output
    assert "holds" in result.stdout


def test_a_certain_version_is_verified(proven: Path, tmp_path: Path) -> None:
    """Such as an older one than the latest, after a rollback; --version needs the name of one model."""
    rewritten(proven, tmp_path, test_accuracy="0.9999")
    (tmp_path / "lstm/2").mkdir()
    shutil.copy(proven / "lstm/1/model.onnx", tmp_path / "lstm/2")
    latest = json.loads(models("verify", "--models", tmp_path, "--json").stdout)
    assert [entry["version"] for entry in latest] == [2]
    older = models("verify", "lstm", "--version", "1", "--models", tmp_path, "--json")
    assert older.exit_code == 1
    assert [entry["version"] for entry in json.loads(older.stdout)] == [1]
    for names in ((), ("lstm", "lstm")):
        refused = models("verify", *names, "--version", "1", "--models", tmp_path)
        assert (refused.exit_code, "--version 1 needs a single model" in refused.stderr) == (2, True)
