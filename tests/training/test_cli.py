import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from hangtag.cli import main
from tests.training.configs import OnStep, figures, same_weights, weights
from training import label_distance, trainer
from training.cli import train
from training.config import RunConfig
from training.data import FashionMnist
from training.datasets import ALL_MODELS
from training.models import MODELS
from training.recipes import recipe_for
from training.run import Run
from training.watch import Progress

HANGTAG = Path(sys.executable).with_name("hangtag")
EPOCHS = 4
MODELS_DIR = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="module")
def arguments(raw_dir: Path) -> list[str]:
    """A run of about two seconds, without --out."""
    return [
        *("train", "lstm", "--data-dir", str(raw_dir), "--device", "cpu"),
        *("--limit", "640", "--epochs", str(EPOCHS), "--threads", "1"),
    ]


@pytest.fixture(scope="module")
def config(whole: FashionMnist) -> RunConfig:
    """What these arguments mean."""
    recipe = replace(recipe_for("study", "lstm"), epochs=EPOCHS)
    return RunConfig(
        model="lstm",
        recipe=recipe,
        seed=0,
        data_digest=whole.digest,
        limit=640,
        precision="fp32",
        threads=1,
        device="cpu",
    )


@pytest.fixture(scope="module")
def finished(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A whole run by the command, without a break, and what it said."""
    folder = tmp_path_factory.mktemp("cli") / "finished"
    return folder, hangtag(arguments, folder)


@pytest.fixture(scope="module")
def broken_off(config: RunConfig, small: FashionMnist, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, ended in its second epoch."""

    def interrupt(at: Progress) -> None:
        if at.epoch == 2:
            raise KeyboardInterrupt

    folder = tmp_path_factory.mktemp("cli") / "broken-off"
    with pytest.raises(KeyboardInterrupt):
        trainer.train(config, small, Run(folder), OnStep(interrupt))
    return folder


def hangtag(arguments: list[str], out: Path | None = None) -> Result:
    """The command in this process; an exception that it does not handle fails the test."""
    result = CliRunner().invoke(main, [*arguments, *(["--out", str(out)] if out else [])])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def start(arguments: list[str], out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([HANGTAG, *arguments, "--out", out], stderr=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline, pause = time.monotonic() + 120, threading.Event()
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        pause.wait(0.005)


def one_error(result: Result) -> str:
    """The one line that a failed command says."""
    assert result.exit_code == 1, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.output
    assert lines == result.output.splitlines()[-1:]
    assert "Traceback" not in result.output
    return lines[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# A whole run.


def test_a_run_says_what_it_reached_and_what_to_do_next(finished: tuple[Path, Result]) -> None:
    folder, result = finished
    assert result.exit_code == 0, result.output
    summary = Run(folder).read_metrics()["summary"]
    *_, reached, where = result.stderr.splitlines()
    assert reached == (
        f"best epoch {summary['best_epoch']}: validation accuracy {summary['validation']['accuracy']:.2%}, "
        f"test accuracy {summary['test']['accuracy']:.2%}, 162,574 parameters"
    )
    assert where == f"run: {folder}   next: hangtag export {folder}"  # unbroken, however long the path
    assert f"{EPOCHS * 20}/{EPOCHS * 20}" in result.stderr  # the bar's last state
    assert result.stdout == ""
    assert sum(map(sum, summary["test"]["confusion"])) == 10_000
    assert summary["validation"]["accuracy"] > 0.4


def test_the_arguments_decide_the_config(finished: tuple[Path, Result], config: RunConfig) -> None:
    stored = json.loads((finished[0] / "config.json").read_text())
    assert stored["recipe"]["epochs"] == EPOCHS
    Run(finished[0]).start(config)  # refuses any difference


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
    assert "another seed (seed: 0 there, 7 asked)" in one_error(hangtag(arguments, finished[0]))


def test_a_finished_run_given_again_says_so(arguments: list[str], finished: tuple[Path, Result]) -> None:
    before = contents(finished[0])
    again = hangtag(arguments, finished[0])
    assert again.exit_code == 0
    assert "this run had finished already: nothing was trained. --restart trains it anew." in again.stderr
    assert "had finished already" not in finished[1].stderr
    assert again.stderr.splitlines()[-2:] == finished[1].stderr.splitlines()[-2:]
    assert contents(finished[0]) == before


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
    assert "seed: 0 there, 1 asked" in message
    assert contents(folder) == before

    replaced = hangtag([*other, "--restart"], folder)
    assert replaced.exit_code == 0, replaced.output
    assert replaced.stderr.splitlines()[-1] == f"run: {folder}   next: hangtag export {folder}"
    assert Run(folder).read_config()["seed"] == 1
    assert len(Run(folder).read_metrics()["epochs"]) == 1
    assert not same_weights(weights(folder), weights(finished[0]))
    assert (folder / "notes.txt").read_text() == "mine"


def test_several_teachers_are_learned_from_and_may_be_moved(raw_dir: Path, tmp_path: Path) -> None:
    arguments = ["train", "lstm", "--recipe", "best", "--data-dir", str(raw_dir), "--device", "cpu"]
    arguments += ["--limit", "64", "--epochs", "1", "--threads", "1"]
    first, second = (MODELS_DIR / name / "1" / "model.onnx" for name in ("cnn", "lstm"))
    taught = hangtag([*arguments, "--teacher", str(first), "--teacher", str(second)], tmp_path / "run")
    assert taught.exit_code == 0, taught.output
    assert f"learning from {first} and {second}" in taught.stderr
    moved = Path(shutil.copy(second, tmp_path / "moved.onnx"))
    again = hangtag([*arguments, "--teacher", str(moved), "--teacher", str(first)], tmp_path / "run")
    assert "this run had finished already" in again.stderr
    fewer = hangtag([*arguments, "--teacher", str(first)], tmp_path / "run")
    assert "holds a run with another teacher (teacher: " in one_error(fewer)


# A run that was broken off.


def test_a_killed_command_goes_on_and_ends_with_the_same_weights(
    arguments: list[str], finished: tuple[Path, Result], tmp_path: Path
) -> None:
    with start(arguments, tmp_path) as process:
        wait_until((tmp_path / "metrics.json").is_file, process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    done = len(Run(tmp_path).read_metrics()["epochs"])
    assert not Run(tmp_path).is_finished()
    assert 1 <= done < EPOCHS

    with start(arguments, tmp_path) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert figures(Run(tmp_path).read_metrics()) == figures(Run(finished[0]).read_metrics())
    assert same_weights(weights(tmp_path), weights(finished[0]))


def test_ctrl_c_ends_with_one_line_and_the_run_can_go_on(
    arguments: list[str], finished: tuple[Path, Result], tmp_path: Path
) -> None:
    with start(arguments, tmp_path) as process:
        wait_until((tmp_path / "checkpoint.pt").is_file, process)
        process.send_signal(signal.SIGSTOP)  # so that it cannot finish while we look
        at_work = one_error(hangtag(arguments, tmp_path))
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate(timeout=120)
    assert f"another process is training in {tmp_path}" in at_work
    assert process.returncode == 130, said
    stopped, _, command = said.splitlines()[-1].partition(": hangtag ")
    assert stopped == "stopped. Go on from the last finished epoch with"
    assert "Traceback" not in said
    assert not Run(tmp_path).is_finished()

    assert hangtag(shlex.split(command)).exit_code == 0
    assert figures(Run(tmp_path).read_metrics()) == figures(Run(finished[0]).read_metrics())
    assert same_weights(weights(tmp_path), weights(finished[0]))


def test_the_command_that_is_said_goes_on_with_every_option(
    raw_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    models = [shutil.copytree(MODELS_DIR / name, tmp_path / f"a {name}") / "1/model.onnx" for name in ("cnn", "lstm")]
    distances = Path(shutil.copy(label_distance.DEFAULT_PATH, tmp_path / "my distances.json"))
    options = [
        "train", "lstm", "--recipe", "best", *(f"--teacher={model}" for model in models),
        "--loss", "embedding-distance", "--beta", "2.5",
        "--loss-weight", "0.25", "--distances", str(distances), "--data-dir", str(raw_dir), "--seed", "3",
        "--limit", "64", "--epochs", "1", "--threads", "1", "--precision", "bf16", "--device", "cpu",
    ]  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.AdamW, "step", interrupt)
        stopped = hangtag([*options, "--restart"], tmp_path / "a run")
    assert stopped.exit_code == 130
    command = stopped.stderr.splitlines()[-1].partition(": hangtag ")[2]
    assert "--restart" not in command
    said = one_error(hangtag(["export", str(tmp_path / "a run")]))
    assert said.endswith(f"is not finished (0 epochs so far). Go on with: hangtag {command}")
    done = hangtag(shlex.split(command))
    assert done.exit_code == 0, done.output
    assert Run(tmp_path / "a run").is_finished()


@pytest.mark.parametrize("name", ["config.json", "metrics.json", "checkpoint.pt", "best.pt"])
@pytest.mark.parametrize("damage", ["empty", "text", "half"])
def test_a_broken_file_is_named_in_one_line(
    arguments: list[str], broken_off: Path, tmp_path: Path, name: str, damage: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(broken_off, folder)
    whole = (folder / name).read_bytes()
    spoiled = {"empty": b"", "text": b"hello\n", "half": whole[: len(whole) // 2]}[damage]
    (folder / name).write_bytes(spoiled)
    before = contents(folder)
    message = one_error(hangtag(arguments, folder))
    assert message.startswith(f"Error: {folder / name} ")
    assert "--restart" in message
    assert contents(folder) == before


# Wrong arguments.


def test_a_missing_data_set_is_one_line(tmp_path: Path) -> None:
    message = one_error(hangtag(["train", "lstm", "--data-dir", str(tmp_path)], tmp_path / "run"))
    assert message.startswith(f"Error: {tmp_path} lacks train-images-idx3-ubyte, ")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = one_error(hangtag(arguments, tmp_path / "file" / "run"))
    assert message == f"Error: {tmp_path / 'file' / 'run'} cannot be written (Not a directory)."


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["transformer"], "'transformer' is not one of 'lstm', 'lstm-56', 'lstm-280', 'lstm2', 'cnn'"),
        ([], "Missing argument"),
        (["lstm", "--recipe", "better"], "--recipe': 'better' is not"),
        (["lstm-56", "--recipe", "best"], "--recipe best: there is no such recipe for lstm-56; it has: study."),
        (["lstm", "--teacher", "cnn.onnx"], "--teacher cnn.onnx: recipe study learns from the labels alone."),
        (["lstm", "--loss", "soft-labels", "--beta", "nan"], "'nan' is not a finite number"),
        (["lstm", "--loss", "soft-labels", "--beta", "inf"], "'inf' is not a finite number"),
        (["lstm", "--loss-weight", "nan"], "'nan' is not a finite number"),
        (["cnn_rnn", "--beta", "3"], "--beta: cnn_rnn has a loss of its own; distances are of single labels."),
        (["cnn_rnn", "--loss", "soft-labels"], "--loss: cnn_rnn has a loss of its own"),
        (["lstm", "--epochs", "0"], "--epochs"),
        (["lstm", "--limit", "0"], "--limit"),
        (["lstm", "--threads", "0"], "--threads"),
        (["lstm", "--seed", "-1"], "--seed"),
        (["lstm", "--seed", str(2**70)], "--seed"),
        (["lstm", "--epoch", "3"], "--epoch"),
        pytest.param(
            ["lstm", "--device", "cuda"],
            "PyTorch sees no CUDA device here. Use --device cpu.",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU"),
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_are_explained(tmp_path: Path, given: list[str], expected: str) -> None:
    # Before anything is read: the data set would not be found.
    result = hangtag(["train", *given, "--data-dir", str(tmp_path)], tmp_path / "run")
    assert result.exit_code == 2
    assert expected in result.output
    assert "Usage: main train" in result.output


# Help.


def test_help_teaches() -> None:
    result = hangtag(["train", "--help"])
    assert result.exit_code == 0
    text = "".join(result.stdout.split())
    for taught in (
        *MODELS, "--recipe", "--seed", "--data-dir", "--out", "--epochs", "--limit", "--threads", "--device",
        "--processes", "--precision", "--teacher", "--restart", "Debian's package", "runs/MODEL-RECIPE-seedSEED",
        "config.json, metrics.json and best.pt", "by O-F1 for several labels",
        "goes on from its last finished epoch", "Ctrl-C", "Examples:",
    ):  # fmt: skip
        assert "".join(taught.split()) in text, taught


def test_the_examples_in_the_help_are_valid() -> None:
    examples = re.findall(r"^ *.*hangtag train (.+?)(?:   .*)?$", hangtag(["train", "--help"]).stdout, re.MULTILINE)
    assert len(examples) == 7
    for example in examples:
        assert train.make_context("train", shlex.split(example)).params["model"] in ALL_MODELS


def test_every_option_is_explained() -> None:
    described = {option.name: getattr(option, "help", None) for option in train.params if option.name != "model"}
    assert [name for name, text in described.items() if not text] == []
