"""The catalog: every network by name, with its builder, the data sets that it learns from, and its recipes.

A new network is one new row of NETWORKS and its module in networks/.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from hangtag.serving.image_spec import ImageSpec
from hangtag.training.data import fashion_mnist, sources
from hangtag.training.errors import SettingsError
from hangtag.training.losses.multi_label import LabelPaths, Objective, Sigmoids, SoftmaxRanking
from hangtag.training.networks import own
from hangtag.training.networks.cnn_rnn import CnnEmbedding, CnnLabels, CnnRnn
from hangtag.training.networks.single_label import Cnn, Lstm, Lstm2, ResNet
from hangtag.training.recipes import (
    CNN_BEST,
    CNN_SAME_VIEW,
    FULL_RESOLUTION_TEACHER,
    LSTM2_BEST,
    LSTM_BEST,
    MULTI_LABEL_RECIPE,
    PICTURES,
    STUDY,
    TEACHER,
    Recipe,
)


@dataclass(frozen=True)
class NetworkEntry:
    """One network.

    Attributes:
        build: Makes it, with fresh weights, for a number of labels and for images of one size.
        recipes: How it may be trained on Fashion-MNIST, or on label sets; the first is the default.
        objective: For label sets: the loss, and how outputs are read; None for a single label.
    """

    build: Callable[[int, ImageSpec], nn.Module]
    recipes: tuple[Recipe, ...]
    objective: type[Objective] | None = None

    @property
    def default_data(self) -> str:
        """The name of the data set that it learns from unless another one is named."""
        return sources.LABEL_SETS[0] if self.objective else fashion_mnist.NAME


def _label_sets(network: Callable[[int], nn.Module], objective: type[Objective]) -> NetworkEntry:
    return NetworkEntry(lambda labels, _: network(labels), (MULTI_LABEL_RECIPE,), objective)


NETWORKS: Mapping[str, NetworkEntry] = {
    "lstm": NetworkEntry(Lstm, (STUDY, LSTM_BEST)),
    "lstm-56": NetworkEntry(partial(Lstm, hidden_size=56), (STUDY,)),  # 28 * 10 / 5: also tried in the study
    "lstm-280": NetworkEntry(partial(Lstm, hidden_size=280), (STUDY,)),  # 28 * 10
    "lstm2": NetworkEntry(Lstm2, (STUDY, LSTM2_BEST)),
    "cnn": NetworkEntry(Cnn, (STUDY, TEACHER, CNN_BEST, CNN_SAME_VIEW)),
    "resnet": NetworkEntry(ResNet, (TEACHER,)),
    "resnet-28x28": NetworkEntry(partial(ResNet, full_resolution=True), (FULL_RESOLUTION_TEACHER,)),
    "cnn_rnn": _label_sets(CnnRnn, LabelPaths),
    "sigmoids": _label_sets(CnnLabels, Sigmoids),
    "softmax_ranking": _label_sets(CnnLabels, SoftmaxRanking),
    "cnn_embedding": _label_sets(CnnEmbedding, Sigmoids),
}
MULTI_LABEL_NETWORKS = tuple(name for name, entry in NETWORKS.items() if entry.objective)
RECIPE_NAMES = tuple(dict.fromkeys(recipe.name for entry in NETWORKS.values() for recipe in (*entry.recipes, PICTURES)))


def entry(network: str) -> NetworkEntry:
    """A network's entry; of the user's own network, one that is made for it.

    Raises:
        SettingsError: There is no network of this name.
    """
    if own.is_own(network):
        # Its normalisations and rates of dropout are its own.
        return NetworkEntry(partial(own.build, network), (replace(PICTURES, batch_norm=False, dropout=None),))
    if network not in NETWORKS:
        raise SettingsError(
            f"there is no network {network!r}; there are {', '.join(NETWORKS)}, your own as package.module:callable, "
            "and timm:NAME."
        )
    return NETWORKS[network]


def build(network: str, labels: int = 10, image: ImageSpec = fashion_mnist.IMAGE) -> nn.Module:
    """A network with fresh weights, drawn from torch's global random state.

    Args:
        network: A name of NETWORKS, ``package.module:callable`` or ``timm:NAME``.
        labels: How many there are.
        image: What it sees.

    Raises:
        SettingsError: There is no such network, or it cannot be built for these images.

    Example:
        >>> torch.manual_seed(0)
        >>> build("cnn")(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    return entry(network).build(labels, image)


def recipe_for(name: str | None, network: str, data: str = fashion_mnist.NAME) -> Recipe:
    """A network's recipe by name; for None, the default for the data set.

    The recipe for anybody's pictures is there for every network of a single label.

    Raises:
        SettingsError: The network has no such recipe.
    """
    found = entry(network)
    recipes = {recipe.name: recipe for recipe in found.recipes}
    if found.objective is None:
        recipes.setdefault(PICTURES.name, PICTURES)
    default = PICTURES.name if sources.kind_of(data) else next(iter(recipes))
    chosen = name or default
    if chosen not in recipes:
        raise SettingsError(f"--recipe {name}: there is no such recipe for {network}; it has: {', '.join(recipes)}.")
    return recipes[chosen]


def dataset_for(name: str | None, network: str) -> str:
    """The name of the data set to learn from; the network's default for None.

    Raises:
        SettingsError: There is no such data set, or it is of the wrong kind for the network.
    """
    found = entry(network)
    chosen = name or found.default_data
    if (sources.kind_of(chosen) is None and chosen in sources.LABEL_SETS) != (found.objective is not None):
        takes = " or ".join(sources.LABEL_SETS) if found.objective else "pictures with a single label each"
        raise SettingsError(f"--data {name}: {network} cannot learn from {chosen}: it takes {takes}.")
    return chosen
