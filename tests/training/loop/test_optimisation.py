from dataclasses import replace

import pytest
import torch
from torch import nn

from hangtag.training.loop import optimisation
from hangtag.training.recipes import Recipe

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
    assert highest in (14, 15)  # after 15 % of the steps
    assert rates[0] == pytest.approx(0.1 / 25)
    assert rates[: highest + 1] == sorted(rates[: highest + 1])
    assert rates[highest:] == sorted(rates[highest:], reverse=True)
    assert rates[-1] == pytest.approx(1e-4, rel=0.5)


def test_without_a_schedule_and_an_average_there_are_none() -> None:
    network = nn.Linear(2, 3)
    assert optimisation.scheduler(optimisation.optimizer(network, PLAIN), PLAIN, 20) is None
    assert optimisation.average(network, PLAIN) is None


def test_the_average_follows_weights_and_statistics_exponentially() -> None:
    network = nn.BatchNorm1d(1)
    average = optimisation.average(network, replace(PLAIN, ema_decay=0.9))
    assert average is not None
    average.update_parameters(network)  # the first is taken as it is
    with torch.no_grad():
        network.weight.fill_(2.0)
        network.running_mean.fill_(10.0)  # type: ignore[union-attr]
    average.update_parameters(network)
    averaged = average.module.state_dict()
    assert averaged["weight"].item() == pytest.approx(0.9 * 1 + 0.1 * 2)
    assert averaged["running_mean"].item() == pytest.approx(0.1 * 10)
