"""`hangtag train`: its reports, the files of a run, and a folder that already contains a run."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.kit import garments
from tests.kit.command import contents, invoke, refusal
from tests.training.small_runs import EPOCHS, TRAINED, Finished, logits, read, same_weights, state, train, weights

pytestmark = pytest.mark.slow


def test_a_run_reports_its_result_and_the_next_command(finished: Finished) -> None:
    summary = read(finished.folder)["summary"]
    resources, *_ = lines = finished.stderr.splitlines()
    assert re.fullmatch(rf"{finished.folder.name}: data from .+, cpu, 1 thread", resources)
    # Other tests may run at the same time, so the command may print one more line, about a busy CPU.
    assert [line.split(":")[0] for line in lines if line.startswith("epoch ")] == [
        f"epoch {epoch}/{EPOCHS}" for epoch in range(1, EPOCHS + 1)
    ]
    assert lines[-2:] == [
        f"best epoch {summary['best_epoch']}: validation accuracy {summary['validation']['accuracy']:.2%}, "
        f"test accuracy {summary['test']['accuracy']:.2%} of 100 images, 162,574 parameters",
        f"run: {finished.folder}   next: hangtag export {finished.folder}",  # the long path is in one line
    ]
    assert finished.stdout == ""


def test_the_config_holds_every_setting_and_the_studys_recipe(finished: Finished, broken_off: Path) -> None:
    config = read(finished.folder, "config.json")
    environment = config.pop("environment")
    assert environment.keys() == {"created", "git_revision", "numpy", "python", "torch"}
    assert (environment["torch"], environment["numpy"]) == (torch.__version__, np.__version__)
    assert environment["created"].endswith("+00:00")
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", environment["git_revision"])
    options = f"--epochs {EPOCHS} --seed 0 --limit 640 --threads 1 --device cpu"
    assert config == {
        "model": "lstm",
        "recipe": {
            "name": "study",
            "batch_size": 32,
            "epochs": EPOCHS,
            "learning_rate": 1e-3,
            "optimizer": "adam",
            "betas": [0.9, 0.999],
            "epsilon": 1e-7,  # as in Keras
            "weight_decay": 0.0,
            "schedule": "constant",
            "ema_decay": 0.0,
            "batch_norm": False,
            "dropout": None,
            "label_smoothing": 0.0,
            "augmentation": {"flip": False, "shift": 0, "erase": 0.0},
            "distillation": None,
        },
        "seed": 0,
        "data_digest": garments.DIGEST,
        "limit": 640,
        "precision": "fp32",
        "threads": 1,
        "device": "cpu",
        "processes": 1,
        "dataset": "fashion-mnist",
        "teachers": [],
        "balance": False,
        "select": "accuracy",
        "start_from": None,
        "image": None,  # the data set's own format
        "pictures": None,
        "data_dir": None,
        "command": ["lstm", *options.split()],
    }
    for group in state(broken_off, "checkpoint.pt")["optimizer"]["param_groups"]:
        assert (group["lr"], tuple(group["betas"]), group["eps"]) == (1e-3, (0.9, 0.999), 1e-7)
        assert group["weight_decay"] == 0


def test_the_metrics_are_those_of_the_weights_that_were_saved(finished: Finished) -> None:
    metrics = read(finished.folder)
    rows, summary = metrics["epochs"], metrics["summary"]
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    for row in rows:
        assert row.keys() == {
            "epoch", "train_loss", "train_accuracy", "learning_rate", "seconds", "step_ms",
            "validation_loss", "validation_accuracy", "validation_balanced_accuracy",
        }  # fmt: skip
        assert row["step_ms"] == pytest.approx(row["seconds"] * 1000 / 20, abs=0.1)
    accuracies = [row["validation_accuracy"] for row in rows]
    assert summary["best_epoch"] == 1 + accuracies.index(max(accuracies))
    assert summary["peak_validation_accuracy"] == summary["validation"]["accuracy"] == max(accuracies) > 0.4
    assert summary["final_validation_accuracy"] == accuracies[-1]
    assert summary["parameters"] == 162_574

    assert state(finished.folder, "best.pt")["epoch"] == summary["best_epoch"]
    for name, split in (("validation", garments.few().validation.first(640)), ("test", garments.few().test)):
        answers, classes = logits(finished.folder, split.images), torch.tensor(split.classes).long()
        predicted = answers.argmax(dim=1)
        confusion = torch.zeros(10, 10, dtype=torch.long)
        confusion.index_put_((classes, predicted), torch.tensor(1), accumulate=True)
        assert summary[name]["accuracy"] == pytest.approx(float((predicted == classes).float().mean()), abs=1e-3)
        assert summary[name]["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(answers, classes)), 1e-4)
        assert np.abs(np.array(summary[name]["confusion"]) - confusion.numpy()).sum() <= 4  # rounding may flip 2 labels
        assert np.sum(summary[name]["confusion"]) == len(split)


def test_without_a_folder_the_run_is_named_by_its_settings(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished.folder, tmp_path / "runs" / "lstm-study-seed0")
    assert "run: runs/lstm-study-seed0 " in invoke(*TRAINED).stderr
    shutil.copytree(finished.folder, tmp_path / "runs" / "lstm-study-seed7")
    monkeypatch.setenv("HANGTAG_TRAIN_SEED", "7")
    assert refusal(*TRAINED).startswith("runs/lstm-study-seed7 holds a run with another seed")


def test_a_finished_run_is_reported_and_not_trained_again(finished: Finished, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    again = invoke(*TRAINED, "--out", folder)
    assert "this run is already finished" in again.stderr
    assert "is already finished" not in finished.stderr
    assert "" not in again.stderr.splitlines()
    best, _ = finished.stderr.splitlines()[-2:]
    assert again.stderr.splitlines()[-2:] == [best, f"run: {folder}   next: hangtag export {folder}"]
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before
    (folder / "report.html").unlink()  # as if the command had been killed before it wrote the page
    assert f"wrote {folder}/report.html" in invoke(*TRAINED, "--out", folder).stderr


@pytest.mark.usefixtures("few_test_images")
def test_another_runs_folder_is_refused_and_restart_replaces_it(finished: Finished, tmp_path: Path) -> None:
    folder = tmp_path / "[bold]run[/nonsense]"  # the command must not print the brackets as markup
    shutil.copytree(finished.folder, folder)
    for name in ("notes.txt", "checkpoint.pt.tmp", "teacher.pt"):
        (folder / name).write_text("mine, and what a killed run left")
    before = contents(folder)
    other = ("--seed", 1, "--epochs", 1, "--limit", 64)
    message = refusal(*TRAINED[:2], *other, "--out", folder)
    assert f"{folder} holds a run with another recipe.epochs and seed and limit" in message
    assert "seed: 0 there, 1 requested" in message
    assert "--restart" in message
    assert contents(folder) == before

    replaced = train("lstm", folder, "--seed", 1, "--restart")
    assert replaced.stderr.splitlines()[-1] == f"run: {folder}   next: hangtag export {folder}"
    assert read(folder, "config.json")["seed"] == 1
    assert len(read(folder)["epochs"]) == 1
    assert not same_weights(weights(folder), weights(finished.folder))
    assert contents(folder).keys() == {"notes.txt", "best.pt", "config.json", "metrics.json", "report.html"}


def without(*keys: str) -> Callable[[dict[str, Any]], object]:
    def remove(config: dict[str, Any]) -> None:
        for key in keys:
            section, _, name = key.rpartition(".")
            del (config[section] if section else config)[name]

    return remove


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        # Settings that earlier versions of hangtag did not write, and that do not affect the outcome.
        (without("processes", "dataset", "teachers", "data_dir", "environment"), ""),
        (without("recipe.optimizer", "recipe.schedule", "recipe.ema_decay", "recipe.distillation"), ""),
        (lambda config: config.update(threads=2, data_dir="/elsewhere", tensorboard=True, loss=None), ""),
        (lambda config: config.update(sizes={"train": 576, "validation": 64}), ""),
        (lambda config: config.update(model="cnn"), "another model (model: cnn there, lstm requested)"),
        (
            lambda config: config.update(seed=1, limit=2),
            "another seed and limit (seed: 1 there, 0 requested, limit: 2 there, 640 requested)",
        ),
        (
            lambda config: config["recipe"].update(name="best", batch_size=128),
            "another recipe.name (recipe.name: best there, study requested)",
        ),
        (lambda config: config.update(data_digest="x"), "another data_digest (data_digest: x there, "),
        (lambda config: config.update(processes=2), "another processes (processes: 2 there, 1 requested)"),
        (lambda config: config.update(teachers=[{"digest": "0a1b"}]), "another teacher (teacher: 0a1b there, None"),
        (
            lambda config: config.update(loss={"name": "soft-labels"}),
            "another loss.name (loss.name: soft-labels there, None",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.usefixtures("few_test_images")
def test_a_folder_is_the_runs_own_if_what_decides_the_outcome_is_equal(
    finished: Finished, tmp_path: Path, change: Callable[[dict[str, Any]], object], refused: str
) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    config = read(folder, "config.json")
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    if refused:
        assert f"{folder} holds a run with {refused}" in refusal(*TRAINED, "--out", folder)
        assert read(folder, "config.json") == config
    else:
        assert "this run is already finished" in invoke(*TRAINED, "--out", folder).stderr
        assert read(folder, "config.json")["threads"] == 1
        assert contents(folder)["best.pt"] == contents(finished.folder)["best.pt"]


# Help.


def test_the_examples_in_the_help_are_valid(tmp_path: Path) -> None:
    examples = re.findall(r"^ *hangtag train (.+?)(?:  .*)?$", invoke("train", "--help").stdout, re.MULTILINE)
    assert len(examples) == 9
    for example in examples:
        alone = shlex.split(example.replace("--processes 2", "--processes 1"))
        if "--data" in alone:
            expected = "photos is not a folder", "labels.csv cannot be read", "mypackage.nets:build cannot be imported"
            assert refusal("train", *alone).startswith(expected)
        else:
            message = refusal("train", *alone, "--data-dir", tmp_path)
            assert "lacks train-images-idx3-ubyte" in message  # the data are checked last
