from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hangtag.training.data.multi_label import MAX_LABELS
from hangtag.training.losses.multi_label import LabelPaths, Sigmoids, SoftmaxRanking
from hangtag.training.networks.cnn_rnn import CnnRnn

END, NONE = 4, -100


def label_sets(*sets: Sequence[int], labels: int = 4) -> Tensor:
    return torch.tensor([[label in chosen for label in range(labels)] for chosen in sets])


def test_a_label_set_is_a_path_most_frequent_label_first_then_end_then_no_loss() -> None:
    paths = LabelPaths(torch.tensor([2, 0, 3, 1])).paths(label_sets([0, 1, 2], [3], [], [0, 1, 2, 3]))
    assert paths.tolist() == [
        [2, 0, 1, END, NONE],
        [3, END, NONE, NONE, NONE],
        [END, NONE, NONE, NONE, NONE],
        [2, 0, 3, 1, END],
    ]


def test_of_a_set_too_large_for_a_path_the_rarest_labels_are_left_out() -> None:
    paths = LabelPaths(torch.arange(8)).paths(label_sets(range(8), labels=8))
    assert paths.tolist() == [[*range(MAX_LABELS), 8]]


def test_the_loss_of_paths_is_the_cross_entropy_per_step_by_teacher_forcing() -> None:
    torch.manual_seed(0)
    objective = LabelPaths(torch.tensor([2, 0, 3, 1]))
    network, pixels = CnnRnn(4), torch.rand(2, 64, 64)
    network.eval()
    with torch.no_grad():
        outcome = objective.training_step(network, pixels, label_sets([0, 2], [3]), smoothing=0)
        first = network(pixels[:1], torch.tensor([[END, 2, 0]])).log_softmax(dim=2)[0]
        second = network(pixels[1:], torch.tensor([[END, 3]])).log_softmax(dim=2)[0]
    steps = [first[0, 2], first[1, 0], first[2, END], second[0, 3], second[1, END]]
    assert float(outcome.loss) == pytest.approx(-float(sum(steps)) / 5, rel=1e-5)


class Fixed(nn.Module):
    """Says the same logits whatever it sees."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.logits


NOTHING = torch.empty(1)  # pixels that Fixed ignores


def test_the_loss_of_sigmoids_is_binary_cross_entropy_over_all_labels() -> None:
    outcome = Sigmoids(torch.arange(2)).training_step(Fixed([[1.0, -2.0]]), NOTHING, label_sets([0], labels=2), 0)
    wanted = (np.log1p(np.exp(-1)) + np.log1p(np.exp(-2))) / 2
    assert float(outcome.loss) == pytest.approx(wanted)
    assert int(outcome.correct) == 1


def test_the_loss_of_ranking_is_cross_entropy_against_the_normalised_set() -> None:
    network = Fixed([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    outcome = SoftmaxRanking(torch.arange(3)).training_step(
        network, torch.empty(2), label_sets([0, 1], [0], labels=3), 0
    )
    total = np.log(np.exp([2, 1, 0]).sum())
    assert float(outcome.loss) == pytest.approx(((total - 1.5) + total) / 2)
    assert int(outcome.correct) == 1, "the second ranks a label first that is not there"
