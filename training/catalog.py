"""The catalog: every network by name, with its builder, the data sets that it learns from, and its recipes.

A run's network is built here, too, and prepared for training as its recipe requires.

A new network is one new row of NETWORKS and its module in networks/.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hangtag.printable import named
from hangtag.serving.image_spec import ImageSpec
from hangtag.training import recipes
from hangtag.training.data import fashion_mnist, sources
from hangtag.training.errors import SettingsError
from hangtag.training.losses import LabelPaths, Objective, Sigmoids, SoftmaxRanking
from hangtag.training.networks import own
from hangtag.training.networks.classifiers import Cnn, CnnSmall, Lstm, Lstm2, ResNet
from hangtag.training.networks.cnn_rnn import CnnEmbedding, CnnLabels, CnnRnn
from hangtag.training.networks.normalisation import add_batch_norm
from hangtag.training.recipes import PICTURES, STUDY, TEACHER, Recipe
from hangtag.training.runs.config import RunConfig

_WRAPPINGS = ("model", "state_dict", "model_state_dict")
"""The keys under which a file may keep the weights, next to an optimizer's state and an epoch."""
_PREFIXES = ("", "module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and Lightning put before each weight's name."""
_MANY_STEPS = 1_000
"""Steps per epoch that are enough for running statistics to follow the last steps as usual."""


@dataclass(frozen=True)
class NetworkEntry:
    """One network.

    Attributes:
        build: Builds it with fresh weights, for a number of labels and for images of one size.
        recipes: How to train it on Fashion-MNIST, or on label sets; the first recipe is the default.
        objective: For label sets: the loss, and how outputs are read; None for a single label.
    """

    build: Callable[[int, ImageSpec], nn.Module]
    recipes: tuple[Recipe, ...]
    objective: type[Objective] | None = None


def _label_sets(network: Callable[[int], nn.Module], objective: type[Objective]) -> NetworkEntry:
    return NetworkEntry(lambda labels, _: network(labels), (recipes.MULTI_LABEL_RECIPE,), objective)


NETWORKS: Mapping[str, NetworkEntry] = {
    "lstm": NetworkEntry(Lstm, (STUDY, recipes.LSTM_BEST)),
    "lstm-56": NetworkEntry(partial(Lstm, hidden_size=56), (STUDY,)),  # 28 * 10 / 5: also tried in the study
    "lstm-280": NetworkEntry(partial(Lstm, hidden_size=280), (STUDY,)),  # 28 * 10
    "lstm2": NetworkEntry(Lstm2, (STUDY, recipes.LSTM2_BEST)),
    "cnn": NetworkEntry(Cnn, (STUDY, TEACHER, recipes.CNN_BEST, recipes.CNN_SAME_VIEW)),
    "cnn-small": NetworkEntry(CnnSmall, (STUDY, recipes.CNN_SMALL_SAME_VIEW)),
    "resnet": NetworkEntry(ResNet, (TEACHER,)),
    "resnet-28x28": NetworkEntry(partial(ResNet, full_resolution=True), (recipes.FULL_RESOLUTION_TEACHER,)),
    "cnn_rnn": _label_sets(CnnRnn, LabelPaths),
    "sigmoids": _label_sets(CnnLabels, Sigmoids),
    "softmax_ranking": _label_sets(CnnLabels, SoftmaxRanking),
    "cnn_embedding": _label_sets(CnnEmbedding, Sigmoids),
}
MULTI_LABEL_NETWORKS = tuple(name for name, entry in NETWORKS.items() if entry.objective)
RECIPE_NAMES = tuple(dict.fromkeys(recipe.name for entry in NETWORKS.values() for recipe in (*entry.recipes, PICTURES)))


def entry(network: str) -> NetworkEntry:
    """A network's entry; for the user's own network, a new entry.

    Raises:
        SettingsError: There is no network of this name.
    """
    if own.is_own(network):
        # Its normalisation layers and dropout rates are part of the network itself.
        return NetworkEntry(partial(own.build, network), (replace(PICTURES, batch_norm=False, dropout=None),))
    if network not in NETWORKS:
        raise SettingsError(
            f"there is no network {network!r}; there are {', '.join(NETWORKS)}, your own networks as "
            "package.module:callable, and timm:NAME."
        )
    return NETWORKS[network]


def build(network: str, labels: int = 10, image: ImageSpec = fashion_mnist.IMAGE) -> nn.Module:
    """A network with fresh weights, drawn from torch's global random state.

    Args:
        network: A name of NETWORKS, ``package.module:callable`` or ``timm:NAME``.
        labels: The number of labels.
        image: The images that the network sees.

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

    Every network of a single label has the recipe for the user's own pictures.

    Raises:
        SettingsError: The network has no such recipe.
    """
    found = entry(network)
    known = {recipe.name: recipe for recipe in found.recipes}
    if found.objective is None:
        known.setdefault(PICTURES.name, PICTURES)
    chosen = name or (PICTURES.name if sources.kind_of(data) else next(iter(known)))
    if chosen not in known:
        raise SettingsError(f"--recipe {name}: there is no such recipe for {network}; it has: {', '.join(known)}.")
    return known[chosen]


def dataset_for(name: str | None, network: str) -> str:
    """The name of the data set to learn from; the network's default for None.

    Raises:
        SettingsError: There is no such data set, or it does not suit the network.
    """
    found = entry(network)
    chosen = name or (sources.LABEL_SETS[0] if found.objective else fashion_mnist.NAME)
    if (sources.kind_of(chosen) is None and chosen in sources.LABEL_SETS) != (found.objective is not None):
        takes = " or ".join(sources.LABEL_SETS) if found.objective else "pictures with a single label each"
        raise SettingsError(f"--data {name}: {network} cannot learn from {chosen}: it takes {takes}.")
    return chosen


def prepared(config: RunConfig, labels: int, image: ImageSpec, steps_per_epoch: int) -> nn.Module:
    """The run's network on its device, with the recipe's dropout rates and batch normalisation.

    Raises SettingsError as ``first_network`` does.
    """
    network, _ = first_network(config, labels, image)
    if config.recipe.dropout is not None:
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = config.recipe.dropout
    if config.recipe.batch_norm:
        # Runs on hangtag's own data sets end as in earlier releases, even with few images.
        add_batch_norm(network, steps_per_epoch if config.pictures else _MANY_STEPS)
    # Convolutions are fastest in channels_last on CPUs and GPUs alike; the results are the same.
    moved: nn.Module = network.to(  # type: ignore[call-overload]
        torch.device(config.device), memory_format=torch.channels_last
    )
    return moved


def first_network(config: RunConfig, labels: int, image: ImageSpec) -> tuple[nn.Module, list[str]]:
    """The run's network with fresh weights, or with the weights that it starts from.

    Returns:
        The network; and, with a file to start from, a sentence about the weights that stay fresh.

    Raises:
        SettingsError: The network cannot be built for these images, or the weights to start from are of another
            network.
    """
    network = build(config.model, labels, image)
    if config.start_from is None:
        return network, []
    return network, [_load(network, config.start_from.path, config.model)]


def _load(network: nn.Module, path: str, model: str) -> str:
    """Load the weights of the file that the run starts from. Weights of another shape, such as those for other labels,
    are left out.

    Returns a sentence about the weights that stay fresh.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises all kinds of exceptions
        # PyTorch's own message has many lines, and advises to run code from the file.
        raise SettingsError(
            f"--start-from {path} cannot be read as weights: it is damaged, or torch.save() did not write it, or it "
            "holds other objects than tensors. Save the network's state_dict()."
        ) from error
    state: dict[str, Any] = loaded if isinstance(loaded, dict) else {}
    state = next((state[key] for key in _WRAPPINGS if isinstance(state.get(key), dict)), state)
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    bare = [{key.removeprefix(prefix): value for key, value in tensors.items()} for prefix in _PREFIXES]
    fitting = max(
        ({key: value for key, value in one.items() if shapes.get(key) == value.shape} for one in bare), key=len
    )
    if 2 * len(fitting) < len(shapes):
        raise SettingsError(
            f"--start-from {path} holds {len(fitting)} of the {len(shapes)} weights of {model}: the file belongs to "
            "another network, or to images of another size."
        )
    network.load_state_dict(fitting, strict=False)
    fresh = [f"{key} {list(shape)}" for key, shape in shapes.items() if key not in fitting]
    if not fresh:
        return f"--start-from {path}: all {len(shapes)} weights are the file's."
    return (
        f"--start-from {path}: {len(fresh)} of {len(shapes)} weights begin fresh, because the file has no weights of "
        f"their name and shape: {named(fresh)}."
    )
