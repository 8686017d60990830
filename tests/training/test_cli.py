import json
import shutil
from pathlib import Path

import pytest
from click.testing import Result

from hangtag.training.runs.config import RunConfig
from hangtag.training.runs.identity import identity
from hangtag.training.runs.run import Run
from tests.kit import shipped
from tests.training.command import EPOCHS, contents, hangtag, one_error
from tests.training.configs import same_weights, weights

pytestmark = pytest.mark.slow


def test_a_run_reports_its_result_and_the_next_command(finished: tuple[Path, Result]) -> None:
    folder, result = finished
    assert result.exit_code == 0, result.output
    summary = Run(folder).read_metrics()["summary"]
    *_, reached, where = result.stderr.splitlines()
    assert reached == (
        f"best epoch {summary['best_epoch']}: validation accuracy {summary['validation']['accuracy']:.2%}, "
        f"test accuracy {summary['test']['accuracy']:.2%}, 162,574 parameters"
    )
    assert result.stderr.splitlines()[0].endswith(", cpu, 1 thread")
    assert where == f"run: {folder}   next: hangtag export {folder}"  # unbroken, however long the path
    # Beside other tests there may also be a line about a busy CPU.
    epochs = [line.split(":")[0] for line in result.stderr.splitlines() if line.startswith("epoch ")]
    assert epochs == [f"epoch {epoch}/{EPOCHS}" for epoch in range(1, EPOCHS + 1)]
    assert result.stdout == ""
    assert sum(map(sum, summary["test"]["confusion"])) == 10_000
    assert summary["validation"]["accuracy"] > 0.4


def test_the_arguments_decide_the_config(finished: tuple[Path, Result], config: RunConfig) -> None:
    stored = json.loads((finished[0] / "config.json").read_text())
    assert stored["recipe"]["epochs"] == EPOCHS
    assert identity(stored) == identity(config.as_json())


def test_the_folder_is_named_after_the_run_when_none_is_named(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: tuple[Path, Result]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished[0], tmp_path / "runs" / "lstm-study-seed0")
    assert "run: runs/lstm-study-seed0 " in hangtag(arguments).stderr
    assert one_error(hangtag([*arguments, "--data-dir", "nowhere", "--seed", "5"])).startswith("Error: nowhere")


def test_options_can_be_given_as_variables(
    arguments: list[str], finished: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANGTAG_TRAIN_SEED", "7")
    assert "another seed (seed: 0 there, 7 requested)" in one_error(hangtag(arguments, finished[0]))


def test_a_finished_run_is_reported_and_not_trained_again(arguments: list[str], finished: tuple[Path, Result]) -> None:
    before = contents(finished[0])
    again = hangtag(arguments, finished[0])
    assert again.exit_code == 0
    assert "this run had finished already: nothing was trained. --restart trains it anew." in again.stderr
    assert "" not in again.stderr.splitlines()
    assert "had finished already" not in finished[1].stderr
    assert again.stderr.splitlines()[-2:] == finished[1].stderr.splitlines()[-2:]
    assert contents(finished[0]) == before


@pytest.mark.usefixtures("few_test_images")
def test_a_finished_run_goes_on_and_says_from_where(raw_dir: Path, tmp_path: Path) -> None:
    arguments = ["train", "lstm", "--data-dir", str(raw_dir), "--device", "cpu", "--limit", "64", "--threads", "1"]
    assert hangtag([*arguments, "--epochs", "1"], tmp_path / "run").exit_code == 0
    longer = hangtag([*arguments, "--epochs", "2"], tmp_path / "run")
    assert longer.exit_code == 0, longer.output
    assert "this run had finished 1 epoch, and went on to 2." in longer.stderr.splitlines()


@pytest.mark.usefixtures("few_test_images")
def test_another_runs_folder_is_refused_and_restart_replaces_it(
    arguments: list[str], finished: tuple[Path, Result], tmp_path: Path
) -> None:
    folder = tmp_path / "[bold]run[/nonsense]"  # brackets are not markup
    shutil.copytree(finished[0], folder)
    (folder / "notes.txt").write_text("mine")
    before = contents(folder)
    other = [*arguments, "--seed", "1", "--epochs", "1", "--limit", "64"]
    message = one_error(hangtag(other, folder))
    assert f"{folder} holds a run with another recipe.epochs and seed and limit" in message
    assert "seed: 0 there, 1 requested" in message
    assert contents(folder) == before

    replaced = hangtag([*other, "--restart"], folder)
    assert replaced.exit_code == 0, replaced.output
    assert replaced.stderr.splitlines()[-1] == f"run: {folder}   next: hangtag export {folder}"
    assert Run(folder).read_config()["seed"] == 1
    assert len(Run(folder).read_metrics()["epochs"]) == 1
    assert not same_weights(weights(folder), weights(finished[0]))
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.usefixtures("few_test_images")
def test_several_teachers_are_learned_from_and_may_be_moved(raw_dir: Path, tmp_path: Path) -> None:
    arguments = ["train", "lstm", "--recipe", "best", "--data-dir", str(raw_dir), "--device", "cpu"]
    arguments += ["--limit", "64", "--epochs", "1", "--threads", "1"]
    first, second = (shipped.latest(name) for name in ("cnn", "lstm"))
    taught = hangtag([*arguments, "--teacher", str(first), "--teacher", str(second)], tmp_path / "run")
    assert taught.exit_code == 0, taught.output
    assert f"learning from {first} and {second}" in taught.stderr
    begun = Run(tmp_path / "run").read_config()["environment"]
    moved = Path(shutil.copy(second, tmp_path / "moved.onnx"))
    again = hangtag([*arguments, "--teacher", str(moved), "--teacher", str(first)], tmp_path / "run")
    assert "this run had finished already" in again.stderr
    assert f"--teacher {moved} --teacher {first} " in Run(tmp_path / "run").command()
    assert Run(tmp_path / "run").read_config()["environment"] == begun
    fewer = hangtag([*arguments, "--teacher", str(first)], tmp_path / "run")
    assert "holds a run with another teacher (teacher: " in one_error(fewer)
