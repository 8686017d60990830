import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from hangtag.training.catalog import build
from hangtag.training.loop import optimisation
from hangtag.training.loop.muon import orthogonalise
from hangtag.training.recipes import Recipe

pytestmark = pytest.mark.slow

RECIPE = Recipe(name="muon", batch_size=4, epochs=5, learning_rate=0.02, optimizer="muon", weight_decay=0.1)


@pytest.mark.parametrize("shape", [(1, 16, 16), (4, 24, 7), (2, 5, 40)])
def test_singular_values_become_nearly_equal(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    stretched = torch.randn(shape) * torch.logspace(0, -1, shape[2])
    values = torch.linalg.svdvals(orthogonalise(stretched))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_the_result_is_near_the_nearest_orthogonal_matrix() -> None:
    torch.manual_seed(0)
    stack = torch.randn(3, 8, 8)
    left, _, right = torch.linalg.svd(stack)
    nearest = left @ right
    assert nn.functional.cosine_similarity(orthogonalise(stack).flatten(1), nearest.flatten(1)).min() > 0.95


def test_zeros_stay_zeros() -> None:
    assert orthogonalise(torch.zeros(1, 3, 4)).equal(torch.zeros(1, 3, 4))


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
    parts = optimisation.muon_groups(network, RECIPE)
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
    optimizer = optimisation.optimizer(network, replace(RECIPE, weight_decay=0.0))
    weights.grad = torch.randn(32, 8) * torch.tensor([1.0, 1e-4, 1.0, 1.0]).repeat_interleave(8)[:, None]
    optimizer.step()
    sizes = [gate.pow(2).mean().sqrt().item() for gate in torch.split(weights.detach() - before, 8)]
    assert sizes == pytest.approx([0.2 * RECIPE.learning_rate] * 4, rel=0.25)  # an entry changes as with Adam


def test_adamw_updates_the_rest_at_its_own_rate() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    twin = copy.deepcopy(network[2])
    muon = optimisation.optimizer(network, RECIPE)
    adamw = optimisation.optimizer(twin, replace(RECIPE, optimizer="adamw", learning_rate=0.005))
    for _ in range(3):
        for one, other in zip(network[2].parameters(), twin.parameters(), strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        muon.step()  # the first layer has no gradients, and stays
        adamw.step()
    assert all(one.equal(other) for one, other in zip(network[2].parameters(), twin.parameters(), strict=True))


def test_it_resumes_from_its_state_as_if_it_had_never_stopped() -> None:
    """With a schedule, whose rates are the groups' own."""

    def learn(network: nn.Module, optimizer: torch.optim.Optimizer, scheduler: object, steps: range) -> None:
        for step in steps:
            images = torch.rand(4, 28, 28, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            network(images).logsumexp(dim=1).sum().backward()
            optimizer.step()
            scheduler.step()  # type: ignore[attr-defined]

    recipe = replace(RECIPE, schedule="one_cycle")
    torch.manual_seed(0)
    network = build("lstm").eval()
    optimizer = optimisation.optimizer(network, recipe)
    scheduler = optimisation.scheduler(optimizer, recipe, steps_per_epoch=2)
    assert scheduler is not None
    learn(network, optimizer, scheduler, range(4))
    other = copy.deepcopy(network)
    resumed = optimisation.optimizer(other, recipe)
    rates = optimisation.scheduler(resumed, recipe, steps_per_epoch=2)
    assert rates is not None
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    rates.load_state_dict(scheduler.state_dict())
    learn(network, optimizer, scheduler, range(4, 8))
    learn(other, resumed, rates, range(4, 8))
    assert all(one.equal(two) for one, two in zip(network.parameters(), other.parameters(), strict=True))
    assert [group["lr"] for group in optimizer.param_groups] == [group["lr"] for group in resumed.param_groups]
