"""CNN-RNN: compares its beam search with an exhaustive search, and checks its paths."""

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hangtag.training.networks.cnn_rnn import CnnRnn, beam_search

pytestmark = pytest.mark.slow

LABELS = 3
MAX_LABELS = 5
PATHS = [path for length in range(LABELS + 1) for path in permutations(range(LABELS), length)]


def make_network(seed: int) -> CnnRnn:
    """An untrained network whose answers depend on the image and on earlier labels, because its weights are large."""
    torch.manual_seed(seed)
    network = CnnRnn(LABELS).eval()
    with torch.no_grad():
        network.embeddings.weight.mul_(20)
        for weight in (network.project_image.weight, network.project_output.weight, network.lstm.weight_ih):
            weight.mul_(6)
    return network


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    """Six images of noise, from dark to very bright."""
    brightness = torch.tensor([0.1, 0.3, 0.5, 1, 2, 4])[:, None, None, None]
    return torch.rand(6, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * brightness


@torch.no_grad()
def probability(network: CnnRnn, image: Tensor, path: tuple[int, ...]) -> float:
    """The probability of a complete path, computed by teacher forcing instead of a search."""
    end = network.labels
    inputs = torch.tensor([[end, *path]])
    log_probabilities = functional.log_softmax(network(image[None], inputs), dim=2)[0]
    return float(log_probabilities[torch.arange(len(path) + 1), torch.tensor([*path, end])].sum().exp())


@torch.no_grad()
def test_a_wide_beam_agrees_with_an_exhaustive_search(pixels: Tensor) -> None:
    winners = set()
    for network in map(make_network, range(7, 14)):
        beam = beam_search(network, pixels, width=len(PATHS))
        for image, path, best, labels in zip(
            pixels, beam.path.tolist(), beam.path_probability, beam.probabilities, strict=True
        ):
            every = {candidate: probability(network, image, candidate) for candidate in PATHS}
            winner = max(every, key=lambda candidate: every[candidate])
            winners.add(winner)
            assert tuple(label for label in path if label >= 0) == winner
            assert float(best) == pytest.approx(every[winner], rel=1e-3)
            for label in range(LABELS):
                share = sum(chance for candidate, chance in every.items() if label in candidate) / sum(every.values())
                assert float(labels[label]) == pytest.approx(share, rel=1e-3, abs=1e-6)
    assert {len(winner) for winner in winners} == {0, 1, 2, 3}, "the cases differ"


@torch.no_grad()
def test_a_narrow_beam_finds_a_path_that_is_never_more_probable_than_the_best(pixels: Tensor) -> None:
    network = make_network(7)
    narrow, wide = beam_search(network, pixels, width=1), beam_search(network, pixels, width=len(PATHS))
    assert (narrow.path_probability <= wide.path_probability * 1.0001).all()
    for image, path, path_probability in zip(pixels, narrow.path.tolist(), narrow.path_probability, strict=True):
        labels = tuple(label for label in path if label >= 0)
        assert float(path_probability) == pytest.approx(probability(network, image, labels), rel=1e-4)


class Scripted(CnnRnn):
    """After n labels, the next step returns row n of ``logits``. The last column belongs to END."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits.shape[1] - 1)
        self.logits = logits

    def step(self, image: Tensor, label: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        so_far = state[0][:, 0].long()
        return self.logits[so_far], (state[0] + 1, state[1])


@torch.no_grad()
def test_no_label_is_repeated_even_if_that_is_most_probable(pixels: Tensor) -> None:
    """After label 0, the logits prefer label 0 again, but a path must not repeat a label."""
    end = [-9.0, -9.0, -9.0, 9.0]
    stammering = Scripted(torch.tensor([[9.0, 0.0, 0.0, 0.0], [6.0, 0.0, -9.0, -9.0], *[end] * MAX_LABELS]))
    assert beam_search(stammering.eval(), pixels).path[:, :3].tolist() == [[0, 1, -1]] * len(pixels)


@torch.no_grad()
def test_a_full_path_ends(pixels: Tensor) -> None:
    """After five labels, the logits prefer a sixth label to END, but a path has at most five."""
    talkative = Scripted(torch.eye(11)[:7] * torch.tensor([40.0] * MAX_LABELS + [4.0] * 2)[:, None])
    beam = beam_search(talkative.eval(), pixels)
    assert beam.path.tolist() == [list(range(MAX_LABELS))] * len(pixels)
    assert float(beam.path_probability[0]) == pytest.approx(1 / (10 + math.exp(4)), rel=1e-3)
