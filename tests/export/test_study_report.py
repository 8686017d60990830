import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from export import study_report, study_results
from export.study_report import page, read
from tests.export.runs import start, train
from training.data import Split

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "study"


def result(
    path: Path,
    accuracy: float,
    *,
    model: str = "lstm",
    recipe: str = "study",
    limit: int | None = None,
    loss: dict[str, Any] | None = None,
) -> None:
    value: dict[str, Any] = {
        "config": {"model": model, "recipe": {"name": recipe, "epochs": 1}, "limit": limit, "loss": loss},
        "metrics": {"epochs": [], "summary": {"peak_validation_accuracy": accuracy, "test": {"accuracy": accuracy}}},
    }
    path.write_text(json.dumps(value))


def test_several_seeds_give_mean_and_deviation_and_one_gives_itself(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.90, 0.91, 0.92)):
        result(tmp_path / f"lstm-{seed}.json", accuracy)
    result(tmp_path / "cnn.json", 0.95, model="cnn")
    study = read(tmp_path, "study")
    assert study["lstm"].spread("peak_validation_accuracy") == "91.00 ± 1.00 %"
    assert study["cnn"].spread("test", "accuracy") == "95.00 %"
    assert study["cnn"].points_above(study["lstm"]) == "4.00"


def test_trials_and_other_recipes_do_not_count(tmp_path: Path) -> None:
    result(tmp_path / "a.json", 0.9)
    result(tmp_path / "b.json", 0.1, limit=100)
    result(tmp_path / "c.json", 0.8, recipe="best")
    result(tmp_path / "d.json", 0.2, loss={"name": "soft-labels"})
    assert read(tmp_path, "study")["lstm"].figures("peak_validation_accuracy") == [0.9]
    assert read(tmp_path, "best")["lstm"].figures("peak_validation_accuracy") == [0.8]


def test_the_page_shows_the_figures_of_the_results_files() -> None:
    text = page(RESULTS, ROOT / "benchmarks" / "train" / "results.json")
    for name in study_report.STUDY:
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        values = [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"{name}-study-seed*.json"))]
        mean = sum(value["metrics"]["summary"]["test"]["accuracy"] for value in values) / len(values)
        assert re.findall(r"\d+\.\d+", row.split("|")[-2])[0] == f"{mean * 100:.2f}"
        assert f"| {len(values)} |" in row
    assert "## Hidden sizes" in text


def test_without_a_measured_speed_the_page_says_nothing_of_it(tmp_path: Path) -> None:
    assert "Time per training step" not in page(RESULTS, tmp_path / "none.json")


def test_the_command_writes_the_page_and_its_pictures(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    done = CliRunner().invoke(study_report.main, ["--results", str(RESULTS), "--out", str(tmp_path / "study.md")])
    assert done.exit_code == 0, done.output
    page_text = (tmp_path / "study.md").read_text()
    pictures = re.findall(r"\]\((images/[^)]+)\)", page_text)
    assert len(pictures) == 4
    for picture in pictures:
        assert (tmp_path / picture).read_bytes() == (ROOT / "docs" / picture).read_bytes()


def test_a_finished_run_becomes_a_results_file_and_another_is_refused(garments: Split, tmp_path: Path) -> None:
    train(tmp_path / "done", "lstm", garments.first(64))
    done = CliRunner().invoke(study_results.main, [str(tmp_path / "done"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    kept = json.loads((tmp_path / "out" / "done.json").read_text())
    assert kept["config"]["model"] == "lstm"
    assert kept["metrics"] == json.loads((tmp_path / "done" / "metrics.json").read_text())

    start(tmp_path / "begun", "lstm")
    refused = CliRunner().invoke(study_results.main, [str(tmp_path / "begun"), "--out", str(tmp_path / "out")])
    assert refused.exit_code == 1
    assert "is not finished" in refused.output
    assert not (tmp_path / "out" / "begun.json").exists()


@pytest.mark.parametrize("model", study_report.HIDDEN_SIZES)
def test_lstm_has_three_seeds(model: str) -> None:
    seeds = {json.loads(path.read_text())["config"]["seed"] for path in RESULTS.glob(f"{model}-study-seed*.json")}
    assert len(seeds) >= 3
