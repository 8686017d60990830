import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from hangtag.training.data.fashion_mnist import LABELS
from hangtag.training.labels.distance import LabelDistances
from studies.mistakes import report as mistakes_report
from studies.mistakes.report import LOSSES, SEEDS, bounds, missing, page, read, rows, trials

# Class 0 is at 0.2 from class 1, at 1 from every other, and these are at 0.5 from each other.
MATRIX = np.full((10, 10), 0.5)
MATRIX[0, :] = MATRIX[:, 0] = 1.0
MATRIX[0, 1] = MATRIX[1, 0] = 0.2
np.fill_diagonal(MATRIX, 0)
DISTANCES = LabelDistances(LABELS, MATRIX, {"from": "a test", "file": "cnn/7/model.onnx", "recipe": "study"})


def result(folder: Path, loss: str, seed: int, mild: int, bad: int, beta: float = 5) -> Path:
    """A run with so many mistakes of distance 0.2 and 1, of 1,000."""
    confusion = np.zeros((10, 10), int)
    confusion[0, 0], confusion[0, 1], confusion[0, 2] = 1000 - mild - bad, mild, bad
    config: dict[str, Any] = {"model": "lstm", "seed": seed, "limit": None, "recipe": {"name": "study"}}
    if loss != "cross-entropy":
        config["loss"] = {"name": loss, "beta": beta, "weight": 0.5}
    figures = {"accuracy": 1 - (mild + bad) / 1000, "confusion": confusion.tolist()}
    path = folder / f"{loss}-seed{seed}.json"
    path.write_text(json.dumps({"config": config, "metrics": {"summary": {"validation": figures, "test": figures}}}))
    return path


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Plain cross-entropy: 100 mistakes, half of them bad, so of severity 0.6."""
    folder = tmp_path / "study"
    folder.mkdir()
    for seed in SEEDS:
        result(folder, "cross-entropy", seed, 50, 50)
    return folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Soft labels: three quarters are mild, severity 0.4. The other loss: as mild, with three times the mistakes."""
    folder = tmp_path / "mistakes"
    (folder / "evaluations").mkdir(parents=True)
    for seed in SEEDS:
        result(folder, "soft-labels", seed, 75, 25)
        result(folder, "embedding-distance", seed, 225, 75)
    severity = {"mean": 0.4, "nearest": {"accuracy": 0.89, "mean": 0.38}, "second": 0.75}
    (folder / "evaluations/lstm.json").write_text(json.dumps({"accuracy": 0.9, "severity": severity}))
    return folder


def test_losses_are_set_beside_plain_cross_entropy(study: Path, results: Path) -> None:
    table = rows(read([study, results]), DISTANCES)
    assert [row.loss for row in table] == list(LOSSES)
    plain, soft, other = table
    assert plain.severities == pytest.approx([0.6] * 3)
    assert soft.severity_beside(plain) == pytest.approx([-100 / 3] * 3)
    assert soft.accuracy_beside(plain) == pytest.approx([0] * 3)
    assert other.accuracy_beside(plain) == pytest.approx([-20] * 3)
    text = page(table, [], bounds(results / "evaluations"), DISTANCES)
    assert "Other settings" not in text
    assert "by the last layer of `models/cnn/7/model.onnx` (recipe `study`)" in text
    assert "In 75 to 75 % of the mistakes" in text
    assert "| `soft-labels` | beta 5, weight 0.5 | 90.00 ± 0.00 | 0.4000 ± 0.0000 |" in text
    assert "| `soft-labels` | -33.33 ± 0.00 % | +0.00 ± 0.00 | reached |" in text
    assert "| `embedding-distance` | -33.33 ± 0.00 % | -20.00 ± 0.00 | not reached |" in text
    assert "| `lstm` | 0.4000 | 0.3800 (-5.0 %) | 90.00 % | 89.00 % | 75 % |" in text


def test_trials_of_other_settings_stand_beside_the_plain_run_of_their_seed(study: Path, results: Path) -> None:
    result(study, "cross-entropy", 1, 20, 80)
    plain = read([study, results])["cross-entropy"]
    tried = results / "tried"
    assert trials(tried, plain, DISTANCES) == []  # there is no such folder
    tried.mkdir()
    result(tried, "soft-labels", 0, 82, 28, beta=2)
    found = trials(tried, plain, DISTANCES)
    severity = (82 * 0.2 + 28) / 110 / 0.6 - 1
    assert [(one.loss, one.settings) for one in found] == [("soft-labels", "beta 2, weight 0.5")]
    assert (found[0].severity, found[0].accuracy) == pytest.approx((100 * severity, -1))
    text = page(rows(read([study, results]), DISTANCES), found, bounds(results / "evaluations"), DISTANCES)
    assert f"| `soft-labels` | beta 2, weight 0.5 | {100 * severity:+.1f} % | -1.00 |" in text
    result(tried, "soft-labels", 7, 1, 1)
    with pytest.raises(click.ClickException, match=r"soft-labels-seed7\.json is no results file of a run with a loss"):
        trials(tried, plain, DISTANCES)


def test_other_runs_do_not_count(study: Path, results: Path) -> None:
    before = read([study, results])
    for key, value in {"model": "cnn", "limit": 100, "recipe": {"name": "best"}}.items():
        document = json.loads(result(results, "soft-labels", 0, 1, 1).read_text())
        document["config"][key] = value
        (results / f"{key}.json").write_text(json.dumps(document))
    result(results, "soft-labels", 0, 75, 25)
    assert read([study, results]) == before


def test_the_command_writes_the_page_once_every_run_is_there(study: Path, results: Path, tmp_path: Path) -> None:
    out = tmp_path / "mistakes.md"
    arguments = ["--study", str(study), "--results", str(results), "--out", str(out)]
    done = CliRunner().invoke(mistakes_report.main, arguments)
    assert done.exit_code == 0, done.output
    assert "| `cross-entropy` |  | 90.00 ± 0.00 |" in out.read_text()
    out.unlink()
    (results / "soft-labels-seed1.json").unlink()
    assert missing(read([study, results])) == ["lstm with soft-labels, seed 1"]
    done = CliRunner().invoke(mistakes_report.main, arguments)
    assert done.exit_code == 0
    assert "1 are lacking, first lstm with soft-labels, seed 1" in done.output
    assert not out.exists()


def test_what_cannot_be_compared_is_refused(study: Path, results: Path) -> None:
    twin = results / "twin.json"
    twin.write_text((results / "soft-labels-seed1.json").read_text())
    with pytest.raises(click.ClickException, match=r"twin\.json is a second run with this loss and seed 1"):
        read([study, results])
    twin.write_text("{}")
    with pytest.raises(click.ClickException, match=r"twin\.json is no results file of a run"):
        read([study, results])
    twin.unlink()
    result(results, "soft-labels", 1, 75, 25, beta=7)
    with pytest.raises(click.ClickException, match=r"soft-labels have other settings: beta 5, .*, beta 7, "):
        rows(read([study, results]), DISTANCES)
    (results / "evaluations/lstm.json").write_text('{"accuracy": 1}')
    with pytest.raises(click.ClickException, match=r"lstm\.json is no document of `hangtag evaluate --json`"):
        bounds(results / "evaluations")
