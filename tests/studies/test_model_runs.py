"""A short run of each study of exported files, by `make studies-check`: it records the figures of its page."""

import json
from pathlib import Path

import pytest

from studies import results
from studies.exported import run as exported
from studies.page import ROOT
from studies.shipped import run as shipped_run
from studies.shipped import speed
from studies.shipped.models import serving
from tests.studies.run_study import measured, repository, study

pytestmark = [pytest.mark.studies, pytest.mark.timeout(900)]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def test_shipped_load_tests_everything_that_ships(out: Path) -> None:
    output = study("shipped", "run", "--seconds", "1", "--out", out, exit_codes=(0, 1))
    if not out.exists():  # On a busy machine the load test calls itself invalid, and has all figures nevertheless.
        assert "INVALID" in output
        results.write(out, shipped_run.lines(json.loads((ROOT / "reports/shipped.json").read_text())))
    lines, text = results.read(out), speed.part(out)
    assert lines["fast-and-accurate, accuracy"]["images"] == 10_000
    for model in (*serving(), *serving(fp32=False)):
        assert f"| {model.title} | " in text
        # ONNX Runtime sums in another order than PyTorch, so an image of 10,000 may change its label.
        assert lines[f"{model.name}, accuracy"]["accuracy"] == pytest.approx(model.accuracy, abs=2e-4)


def test_exported_times_a_file_and_judges_its_goal(tmp_path: Path, out: Path) -> None:
    models = repository(tmp_path / "models", "lstm", "cnn-int8")
    words = ("exported", "run", "--models", models, "--timing", "eager", "--rounds", "1")
    lines, text = measured(out, exported.part, *words)
    assert list(lines["lstm"]["median_ms"]) == ["1", "64"]
    assert list(lines["lstm"]["median_ms"]["1"]) == ["file", "PyTorch"]
    assert ("nodes" in lines["lstm"]) is not lines["lstm"]["reached"]
    assert lines["cnn-int8"]["reached"] is None  # its FP32 file is not there
    assert lines["cnn-int8"]["accuracy_lost"] <= lines["cnn-int8"]["may_lose"]
    assert "| `lstm` | 1.5x PyTorch at batch 1 | " in text
