"""What the training loop makes of data, and of losses that are no numbers."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hangtag.training.errors import DivergedError
from tests.kit import garments
from tests.kit.once import once
from tests.training.small_runs import (
    SOURCES,
    assert_same_outcome,
    config,
    contents,
    learn,
    read,
    same_weights,
    state,
    train,
    weights,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("model", "limit", "epochs"), [("lstm", 800, 3), ("lstm2", 160, 2), ("cnn", 480, 2)])
@pytest.mark.usefixtures("few_test_images")
def test_the_loss_falls(tmp_path_factory: pytest.TempPathFactory, model: str, limit: int, epochs: int) -> None:
    def make(folder: Path) -> dict[str, Any]:
        train(model, folder, limit=limit, epochs=epochs)
        return read(folder)

    metrics = once(tmp_path_factory, f"learned-{model}", make, sources=SOURCES)
    for name in ("train_loss", "validation_loss"):
        losses = [row[name] for row in metrics["epochs"]]
        assert losses == sorted(losses, reverse=True)
    assert losses[-1] < math.log(10) - 0.05  # less than an undecided network's
    assert metrics["summary"]["test"]["accuracy"] > 0.2  # twice what guessing reaches


@pytest.mark.usefixtures("few_test_images")
def test_a_last_batch_of_one_joins_the_one_before_it_under_batch_norm(tmp_path: Path) -> None:
    train("cnn", tmp_path, "--recipe", "teacher", limit=129)  # batches of 128; normalisation needs two samples


def test_only_the_first_images_are_trained_on(tmp_path: Path) -> None:
    whole = garments.few()
    blackened = whole.train.images.copy()
    blackened[96:] = 0
    for name, images in (("whole", whole.train.images), ("blackened", blackened)):
        data = replace(whole, train=replace(whole.train, images=images))
        learn(config(), data, tmp_path / name)
    assert_same_outcome(tmp_path / "blackened", tmp_path / "whole")


def test_the_best_epoch_is_saved_and_of_equal_ones_the_first(tmp_path: Path) -> None:
    whole = garments.few()
    wrong = replace(whole.train, classes=(whole.train.classes + 1) % 10)  # the more it learns, the worse it gets
    learn(config(epochs=4, learning_rate=3e-3), replace(whole, train=wrong), tmp_path / "wrong")
    best = read(tmp_path / "wrong")["summary"]["best_epoch"]
    assert best < 4
    assert state(tmp_path / "wrong", "best.pt")["epoch"] == best
    assert not same_weights(weights(tmp_path / "wrong"), weights(tmp_path / "wrong", "checkpoint.pt"))

    learn(config(limit=32, learning_rate=0.0), whole, tmp_path / "equal")
    assert read(tmp_path / "equal")["summary"]["best_epoch"] == 1


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (64, r"the loss became (nan|inf) in epoch 1, by step 2 of 2.* a lower learning_rate"),
        (32, "outputs are not finite after epoch 1"),  # a single step: its own loss is fine
    ],
)
def test_a_loss_that_is_not_finite_ends_the_run_and_saves_no_weights(tmp_path: Path, limit: int, message: str) -> None:
    with pytest.raises(DivergedError, match=message):
        learn(config("cnn", limit=limit, learning_rate=1e30), garments.few(), tmp_path)
    assert contents(tmp_path).keys() == {"config.json"}
