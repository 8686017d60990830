"""The part of docs/routes.md about cascades' curves: from answers by hand, with and without times."""

from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from hangtag.evaluation.cascade.members import Members
from hangtag.serving.model_repository import ModelFile
from studies import results
from studies.cascades import report, run
from studies.shipped.measured import REPOSITORY
from studies.shipped.models import read_all

TIMES: results.Line = {
    "run": run.TIMES, "command": "python -m studies cascades times", "date": "2026-01-02", "cpus": 2,
    "processor": "a processor", "microseconds": {"lstm": 100.0, "lstm2": 500.0, "cnn": 1000.0},
}  # fmt: skip


def answered(seed: int) -> Members:
    """Three classifiers of 400 samples, each better than the one before, and all too unsure."""
    generator = np.random.default_rng(seed)
    classes = generator.integers(0, 10, 400).astype(np.uint8)
    answers = []
    for clarity in (2.5, 3.0, 4.0):
        logits = generator.normal(0, 1, (400, 10))
        logits[np.arange(400), classes] += clarity
        powers = np.exp(logits * 0.6)
        answers.append(powers / powers.sum(axis=1, keepdims=True))
    return Members([ModelFile(name, 2, Path()) for name in run.MODELS], answers, classes, [1.0, 1.0, 1.0], run.MODELS)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    digests = {model.name: model.metadata["graph_digest"] for model in read_all(REPOSITORY)}
    conditions = {"run": "conditions", "command": "python -m studies cascades run", "date": "2026-01-01"}
    file = tmp_path / "results.jsonl"
    results.write(file, [conditions | {"graph_digests": digests}, *run.lines([answered(1), answered(2)])])
    return file


def test_each_cascade_has_its_thresholds_and_what_the_test_images_make_of_them(recorded: Path) -> None:
    text = report.part(recorded)
    validation, test = (answered(seed).without(1).curve() for seed in (1, 2))
    chosen = validation.cheapest(0.001)
    (tested,) = [point for point in test.points if point.threshold == chosen.threshold]
    row = next(line for line in text.splitlines() if line.startswith("| `lstm`, `cnn` | 0.1 | "))
    assert row.split(" | ")[2:4] == [f"{chosen.threshold:g}", f"{tested.sent_on:.1%}"]
    assert row.endswith(f"| {tested.accuracy:.2%}".replace("%", " % |"))
    assert text.count("| `lstm`, `lstm2`, `cnn` |") == len(report.LOSSES)
    assert text.count("with temperatures |") == 2 * len(report.LOSSES)
    assert "on the 400 validation images" in text
    assert "cost" not in text
    assert len(report.picture(report.read(recorded)).axes) == 1


def test_costs_are_shown_once_times_were_measured(recorded: Path) -> None:
    results.record(recorded, TIMES)
    text = report.part(recorded)
    row = next(line for line in text.splitlines() if line.startswith("| `lstm`, `lstm2`, `cnn` | 0.1 | "))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    first, second = (float(share.rstrip("%")) / 100 for share in cells[3].split(", "))
    assert float(cells[6]) == pytest.approx(0.1 + 0.5 * first + second, abs=0.006)
    assert "`lstm` 100 µs, `lstm2` 500 µs, `cnn` 1,000 µs for an image of a full batch" in text
    assert "2026-01-02 by `python -m studies cascades times` on 2 CPUs (a processor)" in text
    accuracy, cost = report.picture(report.read(recorded)).axes
    assert len(cost.get_lines()) == 3  # a curve for each cascade, and the ring of the route that ships
    assert cost.get_lines()[0].get_xdata()[0] == pytest.approx(0.1)  # type: ignore[index]
    assert accuracy.get_legend() is not None


def test_a_curve_with_temperatures_has_other_thresholds_for_like_shares(recorded: Path) -> None:
    lines = results.read(recorded)
    plain, calibrated = (
        report.curves(lines[name])[0].cheapest(0.001) for name in ("lstm, cnn", f"lstm, cnn, {run.CALIBRATED}")
    )
    assert calibrated.threshold > plain.threshold + 0.1  # the models are more sure then
    assert calibrated.sent_on == pytest.approx(plain.sent_on, abs=0.15)


def test_results_of_another_file_are_refused(recorded: Path) -> None:
    lines = results.read(recorded)
    lines["conditions"]["graph_digests"]["cnn"] = "other"
    results.write(recorded, lines.values())
    with pytest.raises(click.ClickException, match=r"no curve of cnn version \d as it ships; measure it with"):
        report.part(recorded)


@pytest.mark.slow
def test_the_commands_measure_the_shipped_models_and_keep_the_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "BATCH_SIZE", 100)
    out = tmp_path / "results.jsonl"
    for command, arguments in ((run.times, []), (run.main, ["--limit", "50"])):
        result = CliRunner().invoke(command, [*arguments, "--out", str(out)])
        assert result.exit_code == 0, result.output
    lines = results.read(out)
    assert list(lines) == [
        "conditions", "lstm, cnn", "lstm, lstm2, cnn", "lstm, cnn, with temperatures",
        "lstm, lstm2, cnn, with temperatures", "times",
    ]  # fmt: skip
    times = lines["times"]["microseconds"]
    assert 0 < times["lstm"] < times["cnn"]
    for split in lines["lstm, lstm2, cnn"]["splits"]:
        assert split["images"] == 50
        assert len(split["alone"]) == 3
        assert split["accuracy"][0] == pytest.approx(split["alone"][0])
