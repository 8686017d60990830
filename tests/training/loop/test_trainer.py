import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from hangtag.training.catalog import build, recipe_for
from hangtag.training.data.fashion_mnist import FashionMnist
from hangtag.training.errors import DivergedError
from hangtag.training.loop import trainer
from hangtag.training.metrics.single_label import evaluate
from hangtag.training.networks.inference import predict
from hangtag.training.observer import StepProgress
from hangtag.training.runs.run import Run
from tests.training.broken_runs import CheckpointKeptRun, assert_same_outcome
from tests.training.configs import OnStep, make_config, same_weights, weights

pytestmark = pytest.mark.slow

# Learning.


@pytest.mark.parametrize(("model", "limit", "epochs"), [("lstm", 800, 3), ("lstm2", 160, 2), ("cnn", 480, 2)])
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
            "epoch", "train_loss", "train_accuracy", "learning_rate", "seconds", "step_ms",
            "validation_loss", "validation_accuracy",
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
    seen: list[StepProgress] = []
    metrics = trainer.train(make_config(limit=65), small, Run(tmp_path), OnStep(seen.append))
    assert [(at.epoch, at.step, at.steps) for at in seen] == [(e, s, 3) for e in (1, 2) for s in (1, 2, 3)]
    assert [at.last_epoch for at in seen] == [None] * 3 + [metrics["epochs"][0]] * 3
    assert [seen[2].loss, seen[5].loss] == [row["train_loss"] for row in metrics["epochs"]]
    assert seen[0].loss == seen[1].loss != seen[2].loss  # looked at after the first step and the last


def test_a_last_batch_of_one_joins_the_one_before_it_under_batch_norm(small: FashionMnist, tmp_path: Path) -> None:
    config = make_config("cnn", limit=33, epochs=1)
    config = replace(config, recipe=replace(config.recipe, batch_norm=True))
    seen: list[StepProgress] = []
    trainer.train(config, small, Run(tmp_path), OnStep(seen.append))
    assert [at.steps for at in seen] == [1]


def test_the_best_epoch_is_saved_and_not_the_last(small: FashionMnist, tmp_path: Path) -> None:
    wrong = replace(small.train, classes=(small.train.classes + 1) % 10)  # the more it learns, the worse it gets
    data = replace(small, train=wrong)
    metrics = trainer.train(make_config(epochs=4, learning_rate=3e-3), data, CheckpointKeptRun(tmp_path))
    assert metrics["summary"]["best_epoch"] < 4
    assert Run(tmp_path).load("best.pt")["epoch"] == metrics["summary"]["best_epoch"]
    assert not same_weights(weights(tmp_path), weights(tmp_path, "checkpoint.pt"))


def test_of_equal_epochs_the_first_is_saved(small: FashionMnist, tmp_path: Path) -> None:
    metrics = trainer.train(make_config(limit=32, learning_rate=0.0), small, Run(tmp_path))
    assert metrics["summary"]["best_epoch"] == 1


@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
def test_a_finished_run_keeps_its_checkpoint_only_if_more_epochs_may_follow(
    small: FashionMnist, tmp_path: Path, schedule: Literal["constant", "one_cycle"]
) -> None:
    config = make_config(limit=32, epochs=1)
    trainer.train(replace(config, recipe=replace(config.recipe, schedule=schedule)), small, Run(tmp_path))
    kept = ["checkpoint.pt"] if schedule == "constant" else []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", *kept, "config.json", "metrics.json"]


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


# Losses that are no numbers.


def test_a_loss_that_is_not_finite_ends_the_run(small: FashionMnist, tmp_path: Path) -> None:
    config = make_config("cnn", limit=64, learning_rate=1e30)
    with pytest.raises(
        DivergedError, match=r"the loss became (nan|inf) in epoch 1, by step 2 of 2.* a lower learning_rate"
    ):
        trainer.train(config, small, Run(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json"]


def test_weights_spoiled_by_the_last_step_are_not_saved(small: FashionMnist, tmp_path: Path) -> None:
    config = make_config("cnn", limit=32, epochs=1, learning_rate=1e30)  # a single step: its own loss is fine
    with pytest.raises(DivergedError, match="outputs are not finite after epoch 1"):
        trainer.train(config, small, Run(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json"]
