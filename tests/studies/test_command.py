"""`python -m studies`: what it lists, and what its commands do."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hangtag.training.data.fashion_mnist import Split
from hangtag.training.errors import TrainingError
from studies import training_runs
from studies.__main__ import main
from studies.accuracy import run as accuracy
from studies.catalog import EXPERIMENTS
from studies.label_sets import run as label_sets
from studies.mistakes import run as mistakes
from studies.training_runs import TrainingRun
from tests.kit.runs import start, train

pytestmark = pytest.mark.slow


def test_it_lists_every_experiment_with_its_question_cost_and_pages() -> None:
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 0
    for name, experiment in EXPERIMENTS.items():
        assert f"{name}: {experiment.question}" in result.output
        assert experiment.cost in result.output
        assert all(page in result.output for page in experiment.pages)


@pytest.mark.parametrize(
    "arguments", [(name, command) for name, each in EXPERIMENTS.items() for command in (*each.commands, "report")]
)
def test_every_command_explains_itself(arguments: tuple[str, str]) -> None:
    name, command = arguments
    if command == "report" and not EXPERIMENTS[name].report:
        assert CliRunner().invoke(main, [name, command]).exit_code == 2
        return
    result = CliRunner().invoke(main, [name, command, "--help"])
    assert result.exit_code == 0
    assert len(result.output.split("\n\n")[1].strip()) > 40  # its sentence


def test_a_dry_run_prints_the_commands_of_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no teacher has been exported
    out = tmp_path / "results.jsonl"
    result = CliRunner().invoke(main, ["accuracy", "run", "--dry-run", "--out", str(out), "--", "--threads", "2"])
    assert result.exit_code == 0, result.output
    commands = result.output.splitlines()
    assert commands[0] == "hangtag train lstm --seed 0 --precision fp32 --out runs/lstm-study-seed0 --threads 2"
    assert "hangtag train cnn --recipe best --precision bf16 --out runs/cnn-best-seed0 --threads 2" in commands
    teacher = commands.index(
        "hangtag train resnet --seed 1 --precision bf16 --out runs/resnet-teacher-seed1 --threads 2"
    )
    assert commands[teacher + 1] == "hangtag export runs/resnet-teacher-seed1 --models runs/teachers"
    assert commands[-1] == (
        "hangtag train cnn --recipe same-view --precision bf16 "
        "--teacher=studies/accuracy/teachers/resnet-28x28-int8/1/model.onnx "
        "--teacher=studies/accuracy/teachers/resnet-28x28-int8/2/model.onnx "
        "--teacher=studies/accuracy/teachers/cnn-int8/1/model.onnx --out runs/cnn-same-view-seed0 --threads 2"
    )
    full = commands.index(
        "hangtag train resnet-28x28 --seed 0 --precision bf16 --out runs/resnet-28x28-teacher-seed0 --threads 2"
    )
    assert commands[full + 1] == (
        "hangtag export runs/resnet-28x28-teacher-seed0 --models runs/teachers --precision int8 --timing none"
    )
    assert not out.exists()


@pytest.mark.parametrize(
    ("runs", "count", "command"),
    [
        (
            label_sets.TRAINING_RUNS,
            3 * 2 * 4,
            "train sigmoids --data outfits --seed 1 --precision bf16 --out runs/sigmoids-outfits-seed1",
        ),
        (
            mistakes.TRAINING_RUNS,
            3 + 6 + 6,
            "train lstm --loss soft-labels --beta 2 --loss-weight 0.9 "
            "--out runs/lstm-soft-labels-beta2-weight0.9-seed0",
        ),
    ],
)
def test_each_experiment_trains_its_runs(runs: tuple[TrainingRun, ...], count: int, command: str) -> None:
    assert len(runs) == count
    assert command.split() in [words for run in runs for words in run.commands()]


def test_runs_are_chosen_by_a_pattern(tmp_path: Path) -> None:
    chosen = training_runs.select(accuracy.TRAINING_RUNS, "lstm2-*")
    assert [run.name for run in chosen] == ["lstm2-study-seed0", "lstm2-best-seed0"]
    result = CliRunner().invoke(main, ["accuracy", "run", "--only", "gru", "--out", str(tmp_path / "results.jsonl")])
    assert result.exit_code == 1
    assert "no run's name fits 'gru'" in result.output


def test_a_teacher_that_is_exported_is_not_exported_again(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    run = TrainingRun("teacher", ("resnet",), next_step=("export", "runs/teacher"), next_file=file)
    assert len(run.commands()) == 2
    file.touch()
    assert run.commands() == [["train", "resnet", "--out", "runs/teacher"]]


def test_a_finished_run_is_recorded_and_continuing_it_costs_nothing(
    garments: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_runs, "RUNS", tmp_path)
    out = tmp_path / "results.jsonl"
    config = train(tmp_path / "done", "lstm", garments.first(64)).read_config()
    (tmp_path / "done" / "config.json").write_text(json.dumps(config | {"limit": None}))
    commands: list[list[str]] = []
    monkeypatch.setattr(training_runs, "hangtag", lambda arguments, *, dry_run: commands.append([*arguments]))
    training_runs.train([TrainingRun("done", ("lstm",), "study")], accuracy.line, out)
    assert commands == [["train", "lstm", "--out", str(tmp_path / "done")]]
    line = json.loads(out.read_text())
    metrics = json.loads((tmp_path / "done" / "metrics.json").read_text())
    assert (line["run"], line["group"], line["model"], line["teachers"]) == ("done", "study", "lstm", {})
    assert line["test_accuracy"] == pytest.approx(metrics["summary"]["test"]["accuracy"], abs=1e-6)
    assert len(line["curves"]["validation_accuracy"]) == len(metrics["epochs"]) == line["epochs"]


def test_an_unfinished_run_is_refused_and_a_run_on_a_part_of_the_data_is_not_recorded(
    garments: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training_runs, "RUNS", tmp_path)
    out = tmp_path / "results.jsonl"
    start(tmp_path / "begun", "lstm")
    with pytest.raises(TrainingError, match="is not finished"):
        training_runs.record(TrainingRun("begun", ()), accuracy.line, out)
    with pytest.raises(TrainingError, match="is not a run's folder"):
        training_runs.record(TrainingRun("none", ()), accuracy.line, out)
    config = train(tmp_path / "part", "lstm", garments.first(64)).read_config()
    (tmp_path / "part" / "config.json").write_text(json.dumps(config | {"limit": 64}))
    training_runs.record(TrainingRun("part", ()), accuracy.line, out)
    assert "part is not recorded" in capsys.readouterr().out
    assert not out.exists()


def test_a_command_that_fails_ends_the_experiment(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main,
        ["accuracy", "run", "--only", "lstm-study-seed0", "--out", str(tmp_path / "out"), "--", "--epochs", "none"],
    )
    assert result.exit_code == 1
    assert "hangtag train ended with status 2" in result.output
