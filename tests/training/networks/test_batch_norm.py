import pytest
import torch
from torch import nn

from hangtag.training.catalog import build
from hangtag.training.networks.batch_norm import Normalised, add_batch_norm, fold_batch_norm
from hangtag.training.networks.single_label import parameter_count


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A cnn whose normalisations have seen a few batches and are far from where they began."""
    torch.manual_seed(0)
    network = build("cnn")
    add_batch_norm(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(16, 28, 28))
    return network


def test_every_layer_but_the_last_is_normalised(trained: nn.Module) -> None:
    pairs = [type(pair[0]).__name__ for pair in trained.modules() if isinstance(pair, Normalised)]
    assert pairs == ["Conv2d"] * 5 + ["Linear"] * 2
    assert isinstance(trained.classifier[-1], nn.Linear)  # type: ignore[index]


def test_folded_networks_give_the_same_logits_with_the_studys_layers_and_parameters(trained: nn.Module) -> None:
    folded, plain = fold_batch_norm(trained), build("cnn")
    assert parameter_count(folded) == 1_413_834
    assert {name: value.shape for name, value in folded.state_dict().items()} == {
        name: value.shape for name, value in plain.state_dict().items()
    }
    plain.load_state_dict(folded.state_dict())
    pixels = torch.rand(5, 28, 28)
    expected = trained.eval()(pixels)
    torch.testing.assert_close(folded(pixels), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(plain.eval()(pixels), expected, rtol=1e-4, atol=1e-5)


def test_folding_does_not_change_the_network_in_training(trained: nn.Module) -> None:
    trained.train()
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    folded = fold_batch_norm(trained)
    assert trained.training
    assert not folded.training
    after = trained.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_network_without_batch_norm_is_copied_unchanged() -> None:
    network = build("lstm")
    folded = fold_batch_norm(network)
    assert folded is not network
    assert all(torch.equal(value, folded.state_dict()[name]) for name, value in network.state_dict().items())
