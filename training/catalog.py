"""The catalog: every network by name, with its builder, the data sets that it learns from, and its recipes.

A new network is one new row of NETWORKS and its module in networks/.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn

from hangtag.training.data.datasets import MULTI_LABEL, SINGLE_LABEL
from hangtag.training.errors import SettingsError
from hangtag.training.losses.multi_label import LabelPaths, Objective, Sigmoids, SoftmaxRanking
from hangtag.training.networks.cnn_rnn import CnnRnn
from hangtag.training.networks.multi_label import CnnEmbedding, CnnLabels
from hangtag.training.networks.single_label import Cnn, Lstm, Lstm2, ResNet
from hangtag.training.recipes import (
    CNN_BEST,
    CNN_SAME_VIEW,
    FULL_RESOLUTION_TEACHER,
    LSTM2_BEST,
    LSTM_BEST,
    MULTI_LABEL_RECIPE,
    STUDY,
    TEACHER,
    Recipe,
)


@dataclass(frozen=True)
class NetworkEntry:
    """One network. The first of its data sets and of its recipes is the default."""

    build: Callable[[int], nn.Module]  # number of labels -> network with fresh weights
    datasets: tuple[str, ...]
    recipes: tuple[Recipe, ...]
    objective: type[Objective] | None = None  # for label sets: the loss, and how outputs are read


_one_label = partial(NetworkEntry, datasets=(SINGLE_LABEL,))
_label_sets = partial(NetworkEntry, datasets=MULTI_LABEL, recipes=(MULTI_LABEL_RECIPE,))

NETWORKS: Mapping[str, NetworkEntry] = {
    "lstm": _one_label(Lstm, recipes=(STUDY, LSTM_BEST)),
    "lstm-56": _one_label(partial(Lstm, hidden_size=56), recipes=(STUDY,)),  # 28 * 10 / 5: also tried in the study
    "lstm-280": _one_label(partial(Lstm, hidden_size=280), recipes=(STUDY,)),  # 28 * 10
    "lstm2": _one_label(Lstm2, recipes=(STUDY, LSTM2_BEST)),
    "cnn": _one_label(Cnn, recipes=(STUDY, TEACHER, CNN_BEST, CNN_SAME_VIEW)),
    "resnet": _one_label(ResNet, recipes=(TEACHER,)),
    "resnet-28x28": _one_label(partial(ResNet, full_resolution=True), recipes=(FULL_RESOLUTION_TEACHER,)),
    "cnn_rnn": _label_sets(CnnRnn, objective=LabelPaths),
    "sigmoids": _label_sets(CnnLabels, objective=Sigmoids),
    "softmax_ranking": _label_sets(CnnLabels, objective=SoftmaxRanking),
    "cnn_embedding": _label_sets(CnnEmbedding, objective=Sigmoids),
}
MULTI_LABEL_NETWORKS = tuple(name for name, entry in NETWORKS.items() if entry.objective)
RECIPE_NAMES = tuple(dict.fromkeys(recipe.name for entry in NETWORKS.values() for recipe in entry.recipes))


def build(network: str, labels: int = 10) -> nn.Module:
    """A network with fresh weights, drawn from torch's global random state. Raises KeyError for an unknown name.

    Example:
        >>> torch.manual_seed(0)
        >>> build("cnn")(torch.rand(2, 28, 28)).shape
        torch.Size([2, 10])
    """
    return NETWORKS[network].build(labels)


def recipe_for(name: str | None, network: str) -> Recipe:
    """A network's recipe by name; its default for None. Raises SettingsError if the network has no such recipe."""
    recipes = {recipe.name: recipe for recipe in NETWORKS[network].recipes}
    chosen = name or next(iter(recipes))
    if chosen not in recipes:
        raise SettingsError(f"--recipe {name}: there is no such recipe for {network}; it has: {', '.join(recipes)}.")
    return recipes[chosen]


def dataset_for(name: str | None, network: str) -> str:
    """The name of the data set to learn from; the network's default for None. Raises SettingsError for a wrong kind."""
    datasets = NETWORKS[network].datasets
    chosen = name or datasets[0]
    if chosen not in datasets:
        raise SettingsError(f"--data {name}: {network} cannot learn from {name}: it takes {' or '.join(datasets)}.")
    return chosen
