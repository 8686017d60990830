"""The page about mistakes: its comparisons and verdicts follow from the recorded runs and evaluations."""

from pathlib import Path
from typing import Any

import click
import pytest

from hangtag.training.labels import distance as label_distance
from studies import results
from studies.mistakes.report import page, read
from studies.mistakes.run import LOSSES, PLAIN, RESULTS, SEEDS, evaluation_line, line
from studies.shipped.models import read_all
from studies.training_runs import TrainingRun
from tests.studies.fake_run import FakeRun

DISTANCES = {"file": "cnn/7/model.onnx", "recipe": "study"}
FILE = Path("results.jsonl")


def trained(
    loss: str, seed: int, severity: float, accuracy: float, *, group: str = "losses", beta: float = 5
) -> results.Line:
    figures = {f"{split}_{name}": value for split in ("validation", "test") for name, value in
               (("severity", severity), ("accuracy", accuracy))}  # fmt: skip
    settings = None if loss == PLAIN else {"name": loss, "beta": beta, "weight": 0.5}
    run = f"{loss}-{group}-seed{seed}-beta{beta:g}"
    return {"run": run, "group": group, "loss": settings, "seed": seed, "distances": DISTANCES} | figures


EVALUATION = {
    "run": "lstm-evaluation", "group": "shipped", "model": "lstm", "distances": DISTANCES, "accuracy": 0.9,
    "severity": 0.4, "accuracy_by_least_distance": 0.89, "severity_by_least_distance": 0.38, "true_label_second": 0.75,
}  # fmt: skip


@pytest.fixture
def lines() -> list[results.Line]:
    """Plain cross-entropy: severity 0.6. Soft labels: 0.4 at the same accuracy. The other: 0.4 and 20 points less."""
    runs = [trained(PLAIN, seed, 0.6, 0.9) for seed in SEEDS]
    runs += [trained("soft-labels", seed, 0.4, 0.9) for seed in SEEDS]
    runs += [trained("embedding-distance", seed, 0.4, 0.7) for seed in SEEDS]
    return [*runs, EVALUATION]


@pytest.fixture
def file(tmp_path: Path, lines: list[results.Line]) -> Path:
    results.write(tmp_path / FILE, lines)
    return tmp_path / FILE


def test_losses_are_compared_with_plain_cross_entropy(file: Path) -> None:
    inputs = read(file)
    assert [row.loss for row in inputs.rows] == [PLAIN, *LOSSES]
    plain, soft, other = inputs.rows
    assert plain.severities == pytest.approx([0.6] * 3)
    assert soft.severity_change(plain) == pytest.approx([-100 / 3] * 3)
    assert soft.accuracy_change(plain) == pytest.approx([0] * 3)
    assert other.accuracy_change(plain) == pytest.approx([-20] * 3)
    text = page(inputs)
    assert "Other settings" not in text
    assert "by the last layer of `models/cnn/7/model.onnx` (recipe `study`)" in text
    assert "In 75 to 75 % of the mistakes" in text
    assert "| `cross-entropy` |  | 90.00 ± 0.00 |" in text
    assert "| `soft-labels` | -33.33 ± 0.00 % | +0.00 ± 0.00 | reached |" in text
    assert "| `embedding-distance` | -33.33 ± 0.00 % | -20.00 ± 0.00 | not reached |" in text
    assert "| `lstm` | 0.4000 | 0.3800 (-5.0 %) | 90.00 % | 89.00 % | 75 % |" in text


def test_trials_of_other_settings_are_compared_with_the_plain_run_of_their_seed(file: Path) -> None:
    assert read(file).trials == []
    results.record(file, trained("soft-labels", 0, 0.45, 0.89, group="trials", beta=2))
    inputs = read(file)
    assert [(trial.loss, trial.settings) for trial in inputs.trials] == [("soft-labels", "beta 2, weight 0.5")]
    assert (inputs.trials[0].severity, inputs.trials[0].accuracy) == pytest.approx((-25, -1))
    assert "| `soft-labels` | beta 2, weight 0.5 | -25.0 % | -1.00 |" in page(inputs)
    results.record(file, trained("soft-labels", 7, 0.4, 0.9, group="trials"))
    with pytest.raises(click.ClickException, match=r"a line that is no run of this experiment \(KeyError\(7\)\)"):
        read(file)


def test_missing_runs_are_named_with_the_command_that_trains_them(file: Path, lines: list[results.Line]) -> None:
    results.write(file, [one for one in lines if one["run"] != "soft-labels-losses-seed1-beta5"])
    with pytest.raises(click.ClickException, match=r"lacks 1 runs of lstm, first with soft-labels, seed 1\. 'python"):
        read(file)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (trained("soft-labels", 1, 0.4, 0.9) | {"run": "twin"}, "twin is a second run with soft-labels, seed 1"),
        ({"run": "a"}, r"a line that is no run of this experiment \(KeyError\('group'\)\)"),
        (
            EVALUATION | {"run": "b", "distances": {"file": "cnn/8/model.onnx", "recipe": "best"}},
            r"different distances of labels \(cnn/7/model.onnx, cnn/8/model.onnx\)",
        ),
    ],
)
def test_lines_that_cannot_be_compared_are_refused(other: results.Line, message: str, file: Path) -> None:
    results.record(file, other)
    with pytest.raises(click.ClickException, match=message):
        read(file)


def test_runs_of_one_loss_have_the_same_settings(file: Path, lines: list[results.Line]) -> None:
    others = [line for line in lines if line["run"] != "soft-labels-losses-seed1-beta5"]
    results.write(file, [*others, trained("soft-labels", 1, 0.4, 0.9, beta=7)])
    with pytest.raises(click.ClickException, match=r"soft-labels differ in settings: beta 5, .*; beta 7, "):
        read(file)


def test_the_severity_of_a_run_is_the_mean_distance_of_its_mistakes() -> None:
    confusion = [[0] * 10 for _ in range(10)]
    confusion[0][0], confusion[0][1] = 90, 10
    split = {"accuracy": 0.9, "confusion": confusion}
    config: dict[str, Any] = {"loss": None, "seed": 3}
    run = FakeRun(config, {"summary": {"validation": split, "test": split}})
    recorded = line(TrainingRun("a", (), "losses"), run)
    distances = label_distance.default()
    assert recorded["test_severity"] == pytest.approx(distances.matrix[0, 1])
    assert recorded["distances"]["file"] == distances.provenance["file"]
    assert (recorded["loss"], recorded["seed"], recorded["test_accuracy"]) == (None, 3, 0.9)


def test_an_evaluation_becomes_a_line() -> None:
    document = {
        "subject": {"name": "models/lstm/2/model.onnx"},
        "accuracy": 0.9,
        "severity": {
            "mean": 0.4, "nearest": {"accuracy": 0.89, "mean": 0.38}, "second": 0.75,
            "distances": {"provenance": DISTANCES | {"seed": "0"}},
        },
    }  # fmt: skip
    assert evaluation_line("lstm", document) == EVALUATION | {"file": "models/lstm/2/model.onnx"}


def test_the_recorded_evaluations_are_of_the_shipped_models() -> None:
    recorded = results.read(RESULTS)
    for model in read_all(Path(__file__).parents[3] / "models"):
        evaluation = recorded[f"{model.name}-evaluation"]
        command = "run 'python -m studies mistakes run'"
        assert evaluation["file"] == f"models/{model.name}/{model.version}/model.onnx", command
        # ONNX Runtime sums in another order than PyTorch, so one image of 10,000 may change its label.
        assert evaluation["accuracy"] == pytest.approx(float(model.metadata["test_accuracy"]), abs=2e-4)
