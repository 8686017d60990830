"""``hangtag models verify`` measures a model again, and reports recorded results that are no longer true."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.kit import onnx_file
from tests.kit.command import ROOT, invoke
from tests.kit.onnx_models import classifier, publish
from tests.kit.shipped import MODELS

Change = Callable[[dict[str, str]], dict[str, Any]]
NAME, WEIGHTS = "lstm-56", "network.classifier.weight"


def verify(models: Path, *arguments: object, exit_code: int = 0) -> dict[str, dict[str, Any]]:
    """Verify a repository with a single model, and return the result of each check by the check's name."""
    ((verified),) = json.loads(
        invoke("models", "verify", "--models", models, "--json", *arguments, exit_code=exit_code).stdout
    )
    return {finding["check"]: finding for finding in verified["findings"]}


def broken(models: Path) -> dict[str, str]:
    """The message of each check that fails, by the check's name."""
    findings = verify(models, exit_code=1).values()
    return {finding["check"]: finding["said"] for finding in findings if finding["holds"] is False}


def rewritten(proven: Path, models: Path, change: Change) -> Path:
    """A repository with the validated model. ``change`` returns new values for its metadata."""
    file = proven / f"{NAME}/1/model.onnx"
    publish(models, NAME, onnx_file.with_metadata(file, **change(onnx_file.metadata(file))))
    return models


def with_value(key: str, value: str) -> Change:
    return lambda own: {key: value}


def test_recorded_figures_still_hold(proven: Path) -> None:
    findings = verify(proven)
    checks = ["file", "parity", "agreement", "batching"]
    assert list(findings) == checks
    assert all(finding["holds"] is True for finding in findings.values()), findings
    assert "(recorded " in findings["parity"]["said"]
    assert "\nholds " in invoke("models", "verify", NAME, "--models", proven).stdout


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (with_value("precision", "bf16"), dict.fromkeys(("parity", "agreement", "batching"), "cannot be read")),
        (with_value("task", "other"), {"parity": "the file loads, but fails", "batching": "the file loads, but fails"}),
        (with_value("training", "[1]"), dict.fromkeys(("parity", "agreement", "batching"), "cannot be read")),
        (with_value("gate", "[1]"), dict.fromkeys(("parity", "batching"), "cannot be read")),
        (lambda own: {"gate": None}, {"parity": "missing"}),
        (with_value("reference", "{"), {"parity": "cannot be read"}),
        (lambda own: {"test_accuracy": f"{float(own['test_accuracy']) - 0.01:.4f}"}, {"agreement": ""}),
        (lambda own: {"test_accuracy": f"{float(own['test_accuracy']) + 0.01:.4f}"}, {"agreement": ""}),
    ],
    ids=["precision", "task", "training", "gate", "no gate", "reference", "worse", "better"],
)
def test_strange_or_other_metadata_does_not_hold(
    change: Change, expected: dict[str, str], proven: Path, tmp_path: Path
) -> None:
    sentences = broken(rewritten(proven, tmp_path, change))
    assert list(sentences) == list(expected)
    for check, part in expected.items():
        assert part in sentences[check]


@pytest.mark.parametrize(
    ("scale", "expected"),
    [(1.001, {"file", "parity"}), (-1.0, {"file", "parity", "agreement"})],
    ids=["louder", "other"],
)
def test_changed_weights_are_detected(proven: Path, tmp_path: Path, scale: float, expected: set[str]) -> None:
    model = onnx.load(proven / f"{NAME}/1/model.onnx")
    onnx_file.replace(model, WEIGHTS, onnx_file.initializer(model, WEIGHTS) * np.float32(scale))
    publish(tmp_path, NAME, model)
    assert broken(tmp_path).keys() >= expected
    assert "DOES NOT HOLD" in invoke("models", "verify", "--models", tmp_path, exit_code=1).stdout


def test_pictures_that_are_gone_are_named(proven: Path, tmp_path: Path) -> None:
    def elsewhere(own: dict[str, str]) -> dict[str, str]:
        training = json.loads(own["training"])
        training["config"] |= {"dataset": "folder:nowhere"}
        return {"training": json.dumps(training)}

    models = rewritten(proven, tmp_path, elsewhere)
    shown = invoke("models", "verify", "--models", models, exit_code=None).stdout
    assert re.search(r"not checked +agreement +the training pictures, folder:nowhere", shown)
    assert "\nnot checked: 1 figure, for the reasons above. " in shown
    assert shown.endswith(", give --data-dir PICTURES.\n")


def test_a_file_that_cannot_be_loaded_does_not_hold(tmp_path: Path) -> None:
    publish(tmp_path, "broken", classifier()).write_bytes(b"")
    assert list(broken(tmp_path)) == ["file"]


def test_sets_of_labels_are_verified_too() -> None:
    findings = verify(ROOT / "examples/outfits/models")
    checks = ["file", "parity", "batching"]
    assert [check for check, finding in findings.items() if finding["holds"]] == checks


def test_a_file_that_is_older_than_the_gate_is_verified_by_its_few_figures() -> None:
    assert "holds" in invoke("models", "verify", "lstm", "--models", MODELS).stdout


def test_a_certain_version_is_verified(proven: Path, tmp_path: Path) -> None:
    """--version selects a version other than the latest. It needs exactly one model's name."""
    rewritten(proven, tmp_path, with_value("test_accuracy", "0.9999"))
    shutil.copytree(proven / f"{NAME}/1", tmp_path / f"{NAME}/2")
    for version, names, exit_code in ((2, (), 0), (1, (NAME, "--version", 1), 1)):
        shown = invoke("models", "verify", *names, "--models", tmp_path, "--json", exit_code=exit_code).stdout
        assert [entry["version"] for entry in json.loads(shown)] == [version]
    for unclear in ((), (NAME, NAME)):
        refused = invoke("models", "verify", *unclear, "--version", 1, "--models", tmp_path, exit_code=2)
        assert "--version 1" in refused.stderr
