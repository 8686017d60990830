"""Runs each study of exported files briefly, and checks that the study records all results that its page needs."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from studies import results
from studies.exported import run as exported
from studies.page import ROOT
from studies.shipped import run as shipped_run
from studies.shipped import speed
from studies.shipped.models import accuracy, serving
from tests.studies.run_study import measured, repository, study

pytestmark = [pytest.mark.studies, pytest.mark.timeout(900)]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def test_shipped_load_tests_everything_that_ships(out: Path) -> None:
    output = study("shipped", "run", "--seconds", "1", "--out", out, exit_codes=(0, 1))
    if not out.exists():  # On a busy machine the load test reports an invalid run, which still has all results.
        assert "INVALID" in output
        results.write(out, shipped_run.lines(json.loads((ROOT / "reports/shipped.json").read_text())))
    lines, text = results.read(out), speed.part(out)
    assert lines["fast-and-accurate, accuracy"]["images"] == 10_000
    for model in (*serving(), *serving(fp32=False)):
        assert f"| `{model.name}` version {model.version} | " in text
        # ONNX Runtime sums in another order than PyTorch, so one of 10,000 images may change its label.
        assert lines[f"{model.name}, accuracy"]["accuracy"] == pytest.approx(accuracy(model), abs=2e-4)


def test_exported_times_a_file_and_judges_its_goal(tmp_path: Path, out: Path) -> None:
    models = repository(tmp_path / "models", "lstm", "cnn-int8")
    words = ("exported", "run", "--models", models, "--timing", "eager", "--rounds", "1")
    lines, text = measured(out, exported.part, *words)
    assert list(lines["lstm"]["median_ms"]) == ["1", "64"]
    assert list(lines["lstm"]["median_ms"]["1"]) == ["file", "PyTorch"]
    assert lines["cnn-int8"]["reached"] is None  # the FP32 file is missing
    assert lines["cnn-int8"]["accuracy_lost"] <= lines["cnn-int8"]["may_lose"]
    assert "| `lstm` | 1.5x PyTorch at batch 1 | " in text


def test_what_a_contender_pays_for_the_others_turn_is_not_counted() -> None:
    """The first batch after a change of model is slow, because the caches hold the previous model's weights."""
    last: list[str] = []
    seconds = [0.0]

    def contender(name: str) -> exported.Contender:
        def answer(_: object) -> None:
            seconds[0] += 0.0011 if last[-1:] == [name] else 0.05
            last.append(name)

        return answer

    contenders = {name: contender(name) for name in ("one", "other")}
    times = exported.interleaved(contenders, np.zeros((1, 28, 28), np.uint8), clock=lambda: seconds[0])
    assert all(1 <= milliseconds < 25 for milliseconds in times.values())
    assert all(len(list(turn)) >= 2 for _, turn in itertools.groupby(last))
