"""The catalog of networks by name, with their builders and recipes. Also builds a run's network for training.

A new network is a new class in networks/ and a new row in NETWORKS.
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
from hangtag.training.losses import LABEL_PATHS, SIGMOIDS, SOFTMAX_RANKING, Objective
from hangtag.training.networks import own
from hangtag.training.networks.classifiers import Cnn, CnnSmall, Lstm, Lstm2, ResNet
from hangtag.training.networks.cnn_rnn import CnnEmbedding, CnnLabels, CnnRnn
from hangtag.training.networks.normalisation import add_batch_norm
from hangtag.training.recipes import MULTI_LABEL_RECIPE, PICTURES, STUDY, TEACHER, Recipe
from hangtag.training.runs.config import RunConfig

# The keys under which a file may hold the weights, if it also holds, for example, an optimizer's state.
_WRAPPINGS = ("model", "state_dict", "model_state_dict")
_PREFIXES = ("", "module.", "_orig_mod.", "model.")  # DataParallel, torch.compile and Lightning add prefixes
_MANY_STEPS = 1_000  # with this many steps per epoch, batch normalisation has PyTorch's default momentum


@dataclass(frozen=True)
class NetworkEntry:
    """A network of the catalog."""

    build: Callable[[int, ImageSpec], nn.Module]  # takes the number of labels; the weights are initialised freshly
    recipes: tuple[Recipe, ...]  # the recipes for hangtag's own data sets; the first one is the default
    objective: Objective | None = None  # the loss of a multi-label network, and how to read its outputs


NETWORKS: Mapping[str, NetworkEntry] = {
    "lstm": NetworkEntry(Lstm, (STUDY, recipes.LSTM_BEST)),
    "lstm-56": NetworkEntry(partial(Lstm, hidden_size=56), (STUDY,)),  # the study also tried this size, 28 * 10 / 5
    "lstm-280": NetworkEntry(partial(Lstm, hidden_size=280), (STUDY,)),  # 28 * 10
    "lstm2": NetworkEntry(Lstm2, (STUDY, recipes.LSTM2_BEST)),
    "cnn": NetworkEntry(Cnn, (STUDY, TEACHER, recipes.CNN_BEST, recipes.CNN_SAME_VIEW)),
    "cnn-small": NetworkEntry(CnnSmall, (STUDY, recipes.CNN_SMALL_SAME_VIEW)),
    "resnet": NetworkEntry(ResNet, (TEACHER,)),
    "resnet-28x28": NetworkEntry(partial(ResNet, full_resolution=True), (recipes.FULL_RESOLUTION_TEACHER,)),
    "cnn_rnn": NetworkEntry(lambda labels, _: CnnRnn(labels), (MULTI_LABEL_RECIPE,), LABEL_PATHS),
    "sigmoids": NetworkEntry(lambda labels, _: CnnLabels(labels), (MULTI_LABEL_RECIPE,), SIGMOIDS),
    "softmax_ranking": NetworkEntry(lambda labels, _: CnnLabels(labels), (MULTI_LABEL_RECIPE,), SOFTMAX_RANKING),
    "cnn_embedding": NetworkEntry(lambda labels, _: CnnEmbedding(labels), (MULTI_LABEL_RECIPE,), SIGMOIDS),
}
MULTI_LABEL_NETWORKS = tuple(name for name, entry in NETWORKS.items() if entry.objective)
RECIPE_NAMES = tuple(dict.fromkeys(recipe.name for entry in NETWORKS.values() for recipe in (*entry.recipes, PICTURES)))


def entry(network: str) -> NetworkEntry:
    """Return a network's entry. The user's own network gets a new entry, which is not in NETWORKS. Raises SettingsError
    if there is no network of this name."""
    if own.is_own(network):
        # The user's own network has its own normalisation layers and dropout rates.
        return NetworkEntry(partial(own.build, network), (replace(PICTURES, batch_norm=False, dropout=None),))
    if network not in NETWORKS:
        raise SettingsError(
            f"there is no network {network!r}. The networks are {', '.join(NETWORKS)}, your own networks as "
            "package.module:callable, and timm's networks as timm:NAME."
        )
    return NETWORKS[network]


def build(network: str, labels: int = 10, image: ImageSpec = fashion_mnist.IMAGE) -> nn.Module:
    """Build a network with fresh weights, drawn from torch's global random state. ``network`` is a name in NETWORKS,
    ``package.module:callable`` or ``timm:NAME``. Raises SettingsError if there is no such network, or if it cannot be
    built for these images."""
    return entry(network).build(labels, image)


def dataset_for(name: str | None, network: str) -> str:
    """Return the name of the data set to learn from. For None, return the network's default data set. Raises
    SettingsError if there is no such data set, or if the network cannot learn from the data set."""
    found = entry(network)
    chosen = name or (sources.LABEL_SETS[0] if found.objective else fashion_mnist.NAME)
    if (sources.kind_of(chosen) is None and chosen in sources.LABEL_SETS) != (found.objective is not None):
        takes = " or ".join(sources.LABEL_SETS) if found.objective else "pictures with a single label each"
        raise SettingsError(f"--data {name}: {network} learns only from {takes}, not from {chosen}.")
    return chosen


def prepared(config: RunConfig, labels: int, image: ImageSpec, steps_per_epoch: int) -> nn.Module:
    """Build the run's network on its device, with the recipe's dropout rates and batch normalisation. Raises the errors
    of ``first_network``."""
    network, _ = first_network(config, labels, image)
    if config.recipe.dropout is not None:
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = config.recipe.dropout
    if config.recipe.batch_norm:
        # On hangtag's own data sets the momentum is always the default, so that a run gives the same results as in
        # earlier releases.
        add_batch_norm(network, steps_per_epoch if config.pictures else _MANY_STEPS)
    # Convolutions are fastest in channels_last, on CPUs and on GPUs. The results do not depend on the memory format.
    moved: nn.Module = network.to(  # type: ignore[call-overload]
        torch.device(config.device), memory_format=torch.channels_last
    )
    return moved


def first_network(config: RunConfig, labels: int, image: ImageSpec) -> tuple[nn.Module, list[str]]:
    """Build the run's network with fresh weights, or with the weights of the file that the run starts from. A weight
    keeps its fresh value if its shape in the file differs, for example because the number of labels differs. Returns
    the network, and notes on such weights. Raises SettingsError if the network cannot be built for these images, or if
    the file has the weights of another network."""
    network = build(config.model, labels, image)
    if config.start_from is None:
        return network, []
    path = config.start_from.path
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds of exceptions
        # PyTorch's own message is not shown, because it has many lines and advises the user to run code from the file.
        raise SettingsError(
            f"--start-from {path} cannot be read as weights: it is damaged, or torch.save() did not write it, or it "
            "holds objects other than tensors. Save the network's state_dict() instead."
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
            f"--start-from {path} holds {len(fitting)} of the {len(shapes)} weights of {config.model}: the file "
            "belongs to another network, or to images of another size."
        )
    network.load_state_dict(fitting, strict=False)
    fresh = [f"{key} {list(shape)}" for key, shape in shapes.items() if key not in fitting]
    note = (
        f"--start-from {path}: {len(fresh)} of {len(shapes)} weights stay freshly initialised, because the file has no "
        f"weights of the same name and shape: {named(fresh)}."
    )
    return network, [note] * bool(fresh)
