"""Compares the losses for distillation and for label sets with values computed by hand or from their definitions."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hangtag.training.losses import distillation_loss, label_paths, path_loss, ranking_loss, sigmoid_loss
from hangtag.training.networks.cnn_rnn import CnnRnn

LOGITS = torch.log(torch.tensor([[2.0, 1.0, 1.0], [1.0, 1.0, 6.0]]))  # probabilities 1/2 1/4 1/4, and 1/8 1/8 3/4


def test_the_distillation_loss_is_zero_from_itself_and_agrees_with_a_computation_by_hand() -> None:
    assert distillation_loss(LOGITS, LOGITS, 3.0).item() == pytest.approx(0, abs=1e-6)
    student, teacher = torch.zeros(1, 2), torch.log(torch.tensor([[3.0, 1.0]]))
    wanted = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert distillation_loss(student, teacher, 1.0).item() == pytest.approx(wanted)
    # At temperature 2 the odds 3 : 1 become sqrt(3) : 1. The loss is multiplied by the square of the temperature.
    p = math.sqrt(3) / (1 + math.sqrt(3))
    wanted = 4 * (p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
    assert distillation_loss(student, teacher, 2.0).item() == pytest.approx(wanted)


# Sets of labels.

END, NONE = 4, -100


def label_sets(*sets: Sequence[int], labels: int = 4) -> Tensor:
    return torch.tensor([[label in chosen for label in range(labels)] for chosen in sets])


def test_a_label_set_is_a_path_most_frequent_label_first_then_end_then_no_loss() -> None:
    paths = label_paths(label_sets([0, 1, 2], [3], [], [0, 1, 2, 3]), torch.tensor([2, 0, 3, 1]))
    assert paths.tolist() == [
        [2, 0, 1, END, NONE],
        [3, END, NONE, NONE, NONE],
        [END, NONE, NONE, NONE, NONE],
        [2, 0, 3, 1, END],
    ]
    # If a set has more labels than a path can hold, the path leaves out the rarest labels.
    assert label_paths(label_sets(range(8), labels=8), torch.arange(8)).tolist() == [[0, 1, 2, 3, 4, 8]]


def test_the_loss_of_paths_is_the_cross_entropy_per_step_by_teacher_forcing() -> None:
    torch.manual_seed(0)
    order = torch.tensor([2, 0, 3, 1])
    network, pixels = CnnRnn(4), torch.rand(2, 1, 64, 64)
    network.eval()
    with torch.no_grad():
        loss, _ = path_loss(network, pixels, label_sets([0, 2], [3]), order, smoothing=0)
        first = network(pixels[:1], torch.tensor([[END, 2, 0]])).log_softmax(dim=2)[0]
        second = network(pixels[1:], torch.tensor([[END, 3]])).log_softmax(dim=2)[0]
    steps = [first[0, 2], first[1, 0], first[2, END], second[0, 3], second[1, END]]
    assert float(loss) == pytest.approx(-float(sum(steps)) / 5, rel=1e-5)


class Fixed(nn.Module):
    """Answers with the same logits for every input."""

    def __init__(self, *logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.logits


def test_the_loss_of_sigmoids_is_binary_cross_entropy_over_all_labels() -> None:
    network = Fixed([1.0, -2.0])
    loss, correct = sigmoid_loss(network, torch.empty(1), label_sets([0], labels=2), torch.arange(2), 0)
    assert float(loss) == pytest.approx((np.log1p(np.exp(-1)) + np.log1p(np.exp(-2))) / 2)
    assert int(correct) == 1


def test_the_loss_of_ranking_is_cross_entropy_against_the_normalised_set() -> None:
    network = Fixed([2.0, 1.0, 0.0], [0.0, 2.0, 1.0])
    sets = label_sets([0, 1], [0], labels=3)
    loss, correct = ranking_loss(network, torch.empty(2), sets, torch.arange(3), 0)
    total = np.log(np.exp([2, 1, 0]).sum())
    assert float(loss) == pytest.approx(((total - 1.5) + total) / 2)
    assert int(correct) == 1, "the second ranks a label first that is not there"
