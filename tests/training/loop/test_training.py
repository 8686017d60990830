"""The training loop: the best epoch, a loss that is not finite, augmentation, optimizers and schedules."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hangtag.training.catalog import NETWORKS, build
from hangtag.training.errors import DivergedError
from hangtag.training.loop import optimisation
from hangtag.training.recipes import Augmentation, Recipe
from tests.kit import garments
from tests.kit.command import contents
from tests.kit.once import once
from tests.training.small_runs import (
    SOURCES,
    config,
    learn,
    logits,
    read,
    same_weights,
    state,
    train,
    training_on,
    watching,
    weights,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("model", "limit", "epochs"), [("lstm2", 160, 2), ("cnn", 480, 2)])
def test_the_loss_falls(tmp_path_factory: pytest.TempPathFactory, model: str, limit: int, epochs: int) -> None:
    def make(folder: Path) -> dict[str, Any]:
        train(model, folder, limit=limit, epochs=epochs)
        return read(folder)

    metrics = once(tmp_path_factory, f"learned-{model}", make, sources=SOURCES)
    for name in ("train_loss", "validation_loss"):
        losses = [row[name] for row in metrics["epochs"]]
        assert losses == sorted(losses, reverse=True)
    assert losses[-1] < math.log(10) - 0.05  # a network that guesses has the loss log(10)
    assert metrics["summary"]["test"]["accuracy"] > 0.2  # a network that guesses has the accuracy 0.1


def test_batch_norm_is_folded_into_the_weights_whose_figures_are_reported(tmp_path: Path) -> None:
    """With a batch size of 128, 129 images make one batch, because one image alone cannot be normalised."""
    train("cnn", tmp_path / "run", "--recipe", "teacher", limit=129, epochs=2)
    plain = {name: weight.shape for name, weight in build("cnn").state_dict().items()}
    assert {name: weight.shape for name, weight in weights(tmp_path / "run").items()} == plain
    recorded, test = read(tmp_path / "run")["summary"]["test"], garments.few().test
    answers, classes = logits(tmp_path / "run", test.images, "cnn"), torch.tensor(test.classes).long()
    assert float((answers.argmax(dim=1) == classes).float().mean()) == pytest.approx(recorded["accuracy"], abs=0.011)
    assert float(nn.functional.cross_entropy(answers, classes)) == pytest.approx(recorded["loss"], rel=1e-3)


def test_the_best_epoch_is_saved_and_of_equal_ones_the_first(tmp_path: Path) -> None:
    whole = garments.few()
    wrong = replace(whole.train, classes=(whole.train.classes + 1) % 10)  # learning lowers the accuracy
    learn(config(epochs=4, learning_rate=3e-3), replace(whole, train=wrong), tmp_path / "wrong")
    best = read(tmp_path / "wrong")["summary"]["best_epoch"]
    assert best < 4
    assert state(tmp_path / "wrong", "best.pt")["epoch"] == best
    learn(config(epochs=best, learning_rate=3e-3), replace(whole, train=wrong), tmp_path / "shorter")
    assert same_weights(weights(tmp_path / "wrong"), weights(tmp_path / "shorter"))

    learn(config(limit=32, learning_rate=0.0), whole, tmp_path / "equal")
    assert read(tmp_path / "equal")["summary"]["best_epoch"] == 1


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (64, r"the loss became (nan|inf) in epoch 1, by step 2 of 2.* a lower rate with --set learning_rate=RATE"),
        (32, "outputs are not finite after epoch 1"),  # the loss of the only step is finite
    ],
)
def test_a_loss_that_is_not_finite_ends_the_run_and_saves_no_weights(tmp_path: Path, limit: int, message: str) -> None:
    with pytest.raises(DivergedError, match=message) as ended:
        learn(config("cnn", limit=limit, learning_rate=1e30), garments.few(), tmp_path)
    assert not any(words in str(ended.value) for words in ("earlier epochs", "fp32"))
    assert contents(tmp_path).keys() == {"config.json"}


def shown(images: torch.Tensor, folder: Path, **augmentation: Any) -> torch.Tensor:
    """Train a network on these images for one epoch. Return its inputs, uint8 [n, 28, 28], in random order."""
    plain = config(limit=len(images), epochs=1)
    recipe = replace(plain.recipe, augmentation=Augmentation(**augmentation))
    with watching() as batches:
        learn(replace(plain, recipe=recipe), training_on(images.numpy()), folder)
    return torch.cat([torch.from_numpy(batch) for batch in batches])


@pytest.mark.parametrize(
    ("augmentation", "rows", "columns"),
    [({}, [10], [5]), ({"flip": True}, [10], [5, 22]), ({"shift": 2}, range(8, 13), range(3, 8))],
    ids=["none", "flip", "shift"],
)
def test_images_are_mirrored_or_shifted_by_chance(
    augmentation: dict[str, Any], rows: Iterable[int], columns: Iterable[int], tmp_path: Path
) -> None:
    images = torch.zeros(400, 28, 28, dtype=torch.uint8)
    images[:, 10, 5] = 200
    seen = shown(images, tmp_path, **augmentation)
    places = Counter((row, column) for _, row, column in seen.nonzero().tolist())
    assert set(places) == {(row, column) for row in rows for column in columns}
    assert min(places.values()) > 0.25 * 400 / len(places)
    assert set(seen.flatten().tolist()) == {0, 200}


def test_where_an_image_is_shifted_black_moves_in(tmp_path: Path) -> None:
    white = shown(torch.full((50, 28, 28), 255, dtype=torch.uint8), tmp_path, shift=2)
    assert set(white.flatten().tolist()) == {0, 255}
    assert int((white == 255).sum(dim=(1, 2)).min()) == 26 * 26


def test_a_rectangle_of_noise_covers_two_to_twenty_percent_of_some_images(tmp_path: Path) -> None:
    seen = shown(torch.zeros(2000, 28, 28, dtype=torch.uint8), tmp_path, erase=0.3)
    erased = seen.flatten(1).any(dim=1).bool()
    assert 500 < int(erased.sum()) < 700
    for image in seen[erased][:100]:
        rows, columns = image.any(dim=1).nonzero(), image.any(dim=0).nonzero()
        inside = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert 0.01 < inside.numel() / 784 < 0.24
        assert (inside > 0).float().mean() > 0.9  # the noise contains one black pixel in 256


# Optimizers, schedules and averages.


PLAIN = Recipe(name="plain", batch_size=4, epochs=5, learning_rate=0.1)


def test_matrices_decay_and_vectors_do_not() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    matrices, vectors = optimisation.optimizer(network, replace(PLAIN, weight_decay=0.5)).param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.5, 0.0)
    assert [tuple(p.shape) for p in matrices["params"]] == [(3, 2)]
    assert [tuple(p.shape) for p in vectors["params"]] == [(3,), (3,), (3,)]


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_the_recipe_names_the_optimizer(name: str, kind: type) -> None:
    optimizer = optimisation.optimizer(nn.Linear(2, 3), replace(PLAIN, optimizer=name))  # type: ignore[arg-type]
    assert type(optimizer) is kind
    if name == "sgd":
        assert (optimizer.param_groups[0]["momentum"], optimizer.param_groups[0]["nesterov"]) == (0.9, True)


def test_one_cycle_rises_to_the_rate_and_falls_nearly_to_zero() -> None:
    recipe = replace(PLAIN, schedule="one_cycle")
    optimizer = optimisation.optimizer(nn.Linear(2, 3), recipe)
    scheduler = optimisation.scheduler(optimizer, recipe, steps_per_epoch=20)
    assert scheduler is not None
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    highest = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.1, rel=1e-3)
    assert highest in (14, 15)  # the learning rate is highest after 15 % of the steps
    assert rates[0] == pytest.approx(0.1 / 25)
    assert rates[: highest + 1] == sorted(rates[: highest + 1])
    assert rates[highest:] == sorted(rates[highest:], reverse=True)
    assert rates[-1] == pytest.approx(1e-4, rel=0.5)


def test_the_average_follows_weights_and_statistics_exponentially() -> None:
    network = nn.BatchNorm1d(1)
    average = optimisation.average(network, replace(PLAIN, ema_decay=0.9))
    assert average is not None
    average.update_parameters(network)  # the first update copies the weights
    with torch.no_grad():
        network.weight.fill_(2.0)
        network.running_mean.fill_(10.0)  # type: ignore[union-attr]
    average.update_parameters(network)
    averaged = average.module.state_dict()
    assert averaged["weight"].item() == pytest.approx(0.9 * 1 + 0.1 * 2)
    assert averaged["running_mean"].item() == pytest.approx(0.1 * 10)


# Muon.

MUON = Recipe(name="muon", batch_size=4, epochs=5, learning_rate=0.02, optimizer="muon", weight_decay=0.1)


@pytest.mark.parametrize("shape", [(16, 16), (24, 7), (5, 40)])
def test_a_matrix_changes_by_nearly_the_nearest_orthogonal_one_of_adams_size(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(shape[1], shape[0], bias=False), nn.Linear(shape[0], 1))
    weights = network.get_parameter("0.weight")
    before, gradient = weights.detach().clone(), torch.randn(shape) * torch.logspace(0, -1, shape[1])
    optimizer = optimisation.optimizer(network, replace(MUON, weight_decay=0.0))
    weights.grad = gradient.clone()
    optimizer.step()
    change = (before - weights.detach()) / (MUON.learning_rate * 0.2 * max(shape) ** 0.5)
    values = torch.linalg.svdvals(change)
    assert values.min() > 0.5
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(gradient, full_matrices=False)
    assert nn.functional.cosine_similarity(change.flatten(), (left @ right).flatten(), dim=0) > 0.95

    before = weights.detach().clone()
    optimizer = optimisation.optimizer(network, replace(MUON, weight_decay=0.0))
    weights.grad = torch.zeros(shape)
    optimizer.step()
    assert before.equal(weights.detach())


LSTM2 = [f"lstm{n}.weight_{side}_l0" for n in (1, 2) for side in ("ih", "hh")]
CNN = [f"features.{n}.weight" for n in (0, 3, 5, 8, 10)] + ["classifier.0.weight", "classifier.3.weight"]


@pytest.mark.parametrize(
    ("model", "stacked", "single", "classifier"),
    [("lstm2", LSTM2, [], "classifier.weight"), ("cnn", [], CNN, "classifier.6.weight")],
)
def test_muon_updates_the_matrices_that_map_to_hidden_units(
    model: str, stacked: list[str], single: list[str], classifier: str
) -> None:
    network = build(model)
    names = {id(weights): name for name, weights in network.named_parameters()}
    parts = optimisation.muon_groups(network, MUON)
    assert [part["matrices"] for part in parts] == [4, 1, 0, 0]
    assert [part["weight_decay"] for part in parts] == [0.1, 0.1, 0.1, 0.0]
    assert [part["lr"] for part in parts] == [0.02, 0.02, 0.005, 0.005]
    grouped = [[names[id(weights)] for weights in part["params"]] for part in parts]
    assert grouped == [stacked, single, [classifier], [name for name in names.values() if "bias" in name]]


def test_a_gate_whose_gradient_is_small_changes_as_much_as_the_others() -> None:
    torch.manual_seed(0)
    network = nn.LSTM(8, 8)
    weights = network.get_parameter("weight_hh_l0")
    before = weights.detach().clone()
    optimizer = optimisation.optimizer(network, replace(MUON, weight_decay=0.0))
    weights.grad = torch.randn(32, 8) * torch.tensor([1.0, 1e-4, 1.0, 1.0]).repeat_interleave(8)[:, None]
    optimizer.step()
    sizes = [gate.pow(2).mean().sqrt().item() for gate in torch.split(weights.detach() - before, 8)]
    assert sizes == pytest.approx([0.2 * MUON.learning_rate] * 4, rel=0.25)  # like Adam's updates


def test_the_probabilities_of_every_recipe_are_from_0_to_1() -> None:
    recipes = [recipe for network in NETWORKS.values() for recipe in network.recipes]
    assert all(0 <= share <= 1 for each in recipes for share in (each.augmentation.erase, each.dropout or 0))
