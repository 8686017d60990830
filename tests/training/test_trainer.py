import math
import os
import signal
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.configs import OnStep, figures, make_config, same_weights, weights
from training import trainer
from training.config import RunConfig
from training.data import FashionMnist
from training.errors import DivergedError, RunMismatchError
from training.inference import predict
from training.metrics import evaluate
from training.models import build
from training.recipes import recipe_for
from training.run import Run
from training.watch import Progress, Watch

REPOSITORY = Path(__file__).parents[2]


class Keeping(Run):
    """Keeps the last checkpoint, so that the final weights and the optimizer can be compared too."""

    def drop_checkpoint(self) -> None:
        pass


class CrashError(Exception):
    pass


class Crashing(Keeping):
    """Dies before its nth write."""

    def __init__(self, folder: Path, writes: int) -> None:
        super().__init__(folder)
        self.left = writes

    def _spend(self) -> None:
        if self.left == 0:
            raise CrashError
        self.left -= 1

    def start(self, config: RunConfig) -> None:
        self._spend()
        super().start(config)

    def save(self, name: str, state: Any) -> None:
        self._spend()
        super().save(name, state)

    def write_metrics(self, metrics: Any) -> None:
        self._spend()
        super().write_metrics(metrics)

    def drop_checkpoint(self) -> None:
        self._spend()


@pytest.fixture(scope="module")
def unbroken(small: FashionMnist, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs of three steps without a break."""
    folder = tmp_path_factory.mktemp("unbroken")
    trainer.train(make_config(epochs=3), small, Keeping(folder))
    return folder


def assert_same_outcome(folder: Path, unbroken: Path) -> None:
    assert figures(Run(folder).read_metrics()) == figures(Run(unbroken).read_metrics())
    assert same_weights(weights(folder), weights(unbroken))
    if Run(folder).has("checkpoint.pt"):
        one, other = Run(folder).load("checkpoint.pt"), Run(unbroken).load("checkpoint.pt")
        assert same_weights(one["model"], other["model"])
        assert [same_weights(*states) for states in zip(one["rng"], other["rng"], strict=True)] == [True]
        for index, state in other["optimizer"]["state"].items():
            assert same_weights(one["optimizer"]["state"][index], state)


# Learning.


@pytest.mark.parametrize(("model", "limit", "epochs"), [("lstm", 800, 3), ("lstm2", 224, 2), ("cnn", 480, 2)])
def test_the_loss_falls(small: FashionMnist, tmp_path: Path, model: str, limit: int, epochs: int) -> None:
    metrics = trainer.train(make_config(model, limit=limit, epochs=epochs), small, Run(tmp_path))
    for name in ("train_loss", "validation_loss"):
        losses = [row[name] for row in metrics["epochs"]]
        assert losses == sorted(losses, reverse=True)
    assert losses[-1] < math.log(10) - 0.05  # less than an undecided network's
    assert metrics["summary"]["test"]["accuracy"] > 0.2  # twice what guessing reaches


def test_the_studys_recipe() -> None:
    recipe = recipe_for("study", "lstm")
    assert (recipe.batch_size, recipe.epochs, recipe.learning_rate) == (32, 10, 1e-3)
    assert (recipe.betas, recipe.epsilon) == ((0.9, 0.999), 1e-7)  # Adam as in Keras


def test_the_optimizer_is_the_recipes(unbroken: Path) -> None:
    for group in Run(unbroken).load("checkpoint.pt")["optimizer"]["param_groups"]:
        assert (group["lr"], tuple(group["betas"]), group["eps"]) == (1e-3, (0.9, 0.999), 1e-7)
        assert group["weight_decay"] == 0


def test_rows_and_summary(small: FashionMnist, unbroken: Path) -> None:
    metrics = Run(unbroken).read_metrics()
    rows, summary = metrics["epochs"], metrics["summary"]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert row.keys() == {
            "epoch", "train_loss", "train_accuracy", "seconds", "step_ms", "validation_loss", "validation_accuracy",
        }  # fmt: skip
        assert row["seconds"] > 0
        assert row["step_ms"] == pytest.approx(row["seconds"] * 1000 / 3, abs=0.4)
    accuracies = [row["validation_accuracy"] for row in rows]
    assert summary["best_epoch"] == 1 + accuracies.index(max(accuracies))
    assert summary["peak_validation_accuracy"] == max(accuracies)
    assert summary["final_validation_accuracy"] == accuracies[-1]
    assert summary["parameters"] == 162_574

    best = build("lstm")
    best.load_state_dict(weights(unbroken))
    for name, split in (("validation", small.validation.first(96)), ("test", small.test)):
        outcome = evaluate(predict(best, split.images), split.classes)
        assert summary[name] == {
            "accuracy": outcome.accuracy,
            "loss": outcome.loss,
            "confusion": outcome.confusion,
        }
        assert sum(map(sum, summary[name]["confusion"])) == len(split)
    assert summary["validation"]["accuracy"] == max(accuracies)


def test_only_the_first_images_are_trained_on(small: FashionMnist, unbroken: Path, tmp_path: Path) -> None:
    blackened = small.train.images.copy()
    blackened[96:] = 0
    data = replace(small, train=replace(small.train, images=blackened))
    trainer.train(make_config(epochs=3), data, Run(tmp_path))
    assert_same_outcome(tmp_path, unbroken)


def test_progress_is_reported_after_every_step(small: FashionMnist, tmp_path: Path) -> None:
    seen: list[Progress] = []
    metrics = trainer.train(make_config(limit=65), small, Run(tmp_path), OnStep(seen.append))
    assert [(at.epoch, at.step, at.steps) for at in seen] == [(e, s, 3) for e in (1, 2) for s in (1, 2, 3)]
    assert [at.last_epoch for at in seen] == [None] * 3 + [metrics["epochs"][0]] * 3
    assert [seen[2].loss, seen[5].loss] == [row["train_loss"] for row in metrics["epochs"]]
    assert seen[0].loss == seen[1].loss != seen[2].loss  # looked at after the first step and the last


def test_a_last_batch_of_one_joins_the_one_before_it_under_batch_norm(small: FashionMnist, tmp_path: Path) -> None:
    config = make_config("cnn", limit=33, epochs=1)
    config = replace(config, recipe=replace(config.recipe, batch_norm=True))
    seen: list[Progress] = []
    trainer.train(config, small, Run(tmp_path), OnStep(seen.append))
    assert [at.steps for at in seen] == [1]


def test_the_best_epoch_is_kept_and_not_the_last(small: FashionMnist, tmp_path: Path) -> None:
    wrong = replace(small.train, classes=(small.train.classes + 1) % 10)  # the more it learns, the worse it gets
    data = replace(small, train=wrong)
    metrics = trainer.train(make_config(epochs=4, learning_rate=3e-3), data, Keeping(tmp_path))
    assert metrics["summary"]["best_epoch"] < 4
    assert Run(tmp_path).load("best.pt")["epoch"] == metrics["summary"]["best_epoch"]
    assert not same_weights(weights(tmp_path), weights(tmp_path, "checkpoint.pt"))


def test_of_equal_epochs_the_first_is_kept(small: FashionMnist, tmp_path: Path) -> None:
    metrics = trainer.train(make_config(limit=32, learning_rate=0.0), small, Run(tmp_path))
    assert metrics["summary"]["best_epoch"] == 1


def test_a_finished_run_leaves_three_files(small: FashionMnist, tmp_path: Path) -> None:
    trainer.train(make_config(limit=32, epochs=1), small, Run(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "config.json", "metrics.json"]


# Seeds.


@pytest.mark.parametrize("model", ["lstm", "lstm2", "cnn"])
def test_the_same_seed_gives_the_same_weights_and_another_others(
    small: FashionMnist, tmp_path: Path, model: str
) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        torch.rand(3)  # what went on before has no say
        trainer.train(make_config(model, seed=seed, limit=40, epochs=1), small, Run(tmp_path / name))
    assert same_weights(weights(tmp_path / "one"), weights(tmp_path / "same"))
    assert not same_weights(weights(tmp_path / "one"), weights(tmp_path / "other"))


# Going on after a break.


def test_a_finished_run_is_not_trained_again(small: FashionMnist, unbroken: Path) -> None:
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in unbroken.iterdir()}
    metrics = trainer.train(make_config(epochs=3), small, Run(unbroken), OnStep(lambda at: pytest.fail("it trained")))
    assert metrics == Run(unbroken).read_metrics()
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in unbroken.iterdir()} == before


@pytest.mark.parametrize("kill_at", [(1, 2), (2, 1), (2, 2), (3, 3)], ids=str)
def test_a_run_interrupted_inside_an_epoch_goes_on(
    small: FashionMnist, unbroken: Path, tmp_path: Path, kill_at: tuple[int, int]
) -> None:
    def interrupt(at: Progress) -> None:
        if (at.epoch, at.step) == kill_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.train(make_config(epochs=3), small, Keeping(tmp_path), OnStep(interrupt))
    redone: list[int] = []
    trainer.train(make_config(epochs=3), small, Keeping(tmp_path), OnStep(lambda at: redone.append(at.epoch)))
    assert redone[0] == kill_at[0]  # finished epochs are not trained again
    assert_same_outcome(tmp_path, unbroken)


@pytest.mark.parametrize(("model", "precision"), [("cnn", "fp32"), ("cnn", "bf16"), ("lstm2", "fp32")])
def test_every_network_goes_on_as_if_unbroken(small: FashionMnist, tmp_path: Path, model: str, precision: str) -> None:
    def interrupt(at: Progress) -> None:
        if at.epoch == 2:
            raise KeyboardInterrupt

    config = make_config(model, limit=64, precision=precision)
    trainer.train(config, small, Keeping(tmp_path / "unbroken"))
    with pytest.raises(KeyboardInterrupt):
        trainer.train(config, small, Keeping(tmp_path / "broken"), OnStep(interrupt))
    trainer.train(config, small, Keeping(tmp_path / "broken"))
    assert_same_outcome(tmp_path / "broken", tmp_path / "unbroken")


def test_bf16_changes_the_arithmetic_and_not_the_weights_type(
    small: FashionMnist, unbroken: Path, tmp_path: Path
) -> None:
    trainer.train(make_config(epochs=3, precision="bf16"), small, Run(tmp_path))
    one, other = weights(tmp_path), weights(unbroken)
    assert {tensor.dtype for tensor in one.values()} == {torch.float32}
    assert not same_weights(one, other)
    for rough, fine in zip(Run(tmp_path).read_metrics()["epochs"], Run(unbroken).read_metrics()["epochs"], strict=True):
        assert rough["train_loss"] == pytest.approx(fine["train_loss"], rel=0.02)


def test_a_run_that_dies_before_any_of_its_writes_goes_on(small: FashionMnist, unbroken: Path, tmp_path: Path) -> None:
    for writes in range(100):
        folder = tmp_path / str(writes)
        try:
            trainer.train(make_config(epochs=3), small, Crashing(folder, writes))
        except CrashError:
            for name in ("checkpoint.pt.tmp", "best.pt.tmp", "metrics.json.tmp"):
                (folder / name).write_bytes(b"half a file")
            trainer.train(make_config(epochs=3), small, Keeping(folder))
            assert_same_outcome(folder, unbroken)
        else:
            break
    assert writes >= 1 + 3 * 2 + 3  # config; checkpoint and metrics of each epoch; a best, the summary, the clean-up


KILLED_IN_STEP = """
import os, signal, sys
from pathlib import Path
from tests.training.configs import OnStep, make_config
from training import data, trainer
from training.run import Run

def kill(at):
    if (at.epoch, at.step) == (2, 2):
        os.kill(os.getpid(), signal.SIGKILL)

trainer.train(make_config(epochs=3), data.load(Path(sys.argv[1])), Run(Path(sys.argv[2])), OnStep(kill))
"""


def test_a_process_killed_inside_an_epoch_goes_on(
    small: FashionMnist, unbroken: Path, raw_dir: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", KILLED_IN_STEP, str(raw_dir), str(tmp_path)]
    assert subprocess.run(command, cwd=REPOSITORY, env=os.environ).returncode == -signal.SIGKILL
    assert [row["epoch"] for row in Run(tmp_path).read_metrics()["epochs"]] == [1]
    trainer.train(make_config(epochs=3), small, Keeping(tmp_path))
    assert_same_outcome(tmp_path, unbroken)


def interrupted(small: FashionMnist, folder: Path) -> None:
    def interrupt(at: Progress) -> None:
        if at.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.train(make_config(), small, Run(folder), OnStep(interrupt))


class StopAt(Watch):
    """Wants to stop from the nth time that it is asked."""

    def __init__(self, time: int) -> None:
        self.left = time

    def wants_stop(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_it_stops_wherever_it_is_asked_to_and_goes_on(small: FashionMnist, unbroken: Path, tmp_path: Path) -> None:
    """Between steps, between batches of validation, and between those of the last summary."""
    phases = set()
    for time in range(200):
        folder = tmp_path / str(time)
        try:
            trainer.train(make_config(epochs=3), small, Keeping(folder), StopAt(time))
        except KeyboardInterrupt as stopped:
            phases |= {frame.name for frame in traceback.extract_tb(stopped.__traceback__)}
            assert not Run(folder).is_finished()
            if time % 3 == 0:
                trainer.train(make_config(epochs=3), small, Keeping(folder))
                assert_same_outcome(folder, unbroken)
        else:
            break
    assert phases > {"_epoch", "_validated", "_finished"}


def test_a_broken_best_file_is_reported_before_the_training(small: FashionMnist, tmp_path: Path) -> None:
    interrupted(small, tmp_path)
    good = Run(tmp_path).load("best.pt")
    for state in (
        {"epoch": 1},
        {"model": good["model"]},
        good | {"model": None},
        good | {"model": build("cnn").state_dict()},
        good | {"epoch": None},
    ):
        Run(tmp_path).save("best.pt", state)
        with pytest.raises(RunMismatchError, match=r"best\.pt does not hold weights of this run's network") as caught:
            trainer.train(make_config(), small, Run(tmp_path), OnStep(lambda at: pytest.fail("it trained")))
        assert "\n" not in str(caught.value)
    (tmp_path / "best.pt").write_bytes(b"")
    with pytest.raises(RunMismatchError, match=r"best\.pt cannot be read"):
        trainer.train(make_config(), small, Run(tmp_path), OnStep(lambda at: pytest.fail("it trained")))


def test_a_checkpoint_of_something_else_is_refused(small: FashionMnist, tmp_path: Path) -> None:
    interrupted(small, tmp_path)
    good = Run(tmp_path).load("checkpoint.pt")
    for state in (
        Run(tmp_path).load("best.pt"),
        good | {"model": build("cnn").state_dict()},
        good | {"optimizer": torch.optim.Adam(build("cnn").parameters()).state_dict()},
        good | {"rng": [{"cpu": torch.zeros(3, dtype=torch.uint8)}]},
        good | {"rng": []},
    ):
        Run(tmp_path).save("checkpoint.pt", state)
        with pytest.raises(RunMismatchError, match=r"checkpoint\.pt is not a checkpoint of this run") as caught:
            trainer.train(make_config(), small, Run(tmp_path))
        assert "\n" not in str(caught.value)


# Losses that are no numbers.


def test_a_loss_that_is_not_finite_ends_the_run(small: FashionMnist, tmp_path: Path) -> None:
    config = make_config("cnn", limit=64, learning_rate=1e30)
    with pytest.raises(DivergedError, match=r"the loss became (nan|inf) in epoch 1, by step 2 of 2.*learning rate"):
        trainer.train(config, small, Run(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json"]


def test_weights_spoiled_by_the_last_step_are_not_kept(small: FashionMnist, tmp_path: Path) -> None:
    config = make_config("cnn", limit=32, epochs=1, learning_rate=1e30)  # a single step: its own loss is fine
    with pytest.raises(DivergedError, match="outputs are not finite after epoch 1"):
        trainer.train(config, small, Run(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json"]
