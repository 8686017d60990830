"""Builds the network of a run, and prepares it for training as its recipe requires."""

from typing import Any

import torch
from torch import Tensor, nn

from hangtag.serving.image_spec import ImageSpec
from hangtag.training.catalog import build
from hangtag.training.errors import SettingsError
from hangtag.training.networks.normalisation import add_batch_norm
from hangtag.training.recipes import Recipe
from hangtag.training.runs.config import RunConfig

_WRAPPINGS = ("model", "state_dict", "model_state_dict")
"""Where a file keeps the weights among an optimizer's state and an epoch."""
_PREFIXES = ("", "module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and Lightning put before the name of each weight."""
_MANY_STEPS = 1_000
"""Of an epoch: so many that running statistics follow the last of them as they usually do."""


def network(config: RunConfig, labels: int, image: ImageSpec, steps_per_epoch: int) -> nn.Module:
    """The run's network, prepared for training on the run's device. Raises SettingsError as ``first_network`` does."""
    if config.pictures is None:  # runs on a data set of ours end as in earlier releases, with few images too
        steps_per_epoch = _MANY_STEPS
    return prepare(first_network(config, labels, image), config.recipe, torch.device(config.device), steps_per_epoch)


def first_network(config: RunConfig, labels: int, image: ImageSpec) -> nn.Module:
    """The run's network with fresh weights, or with those that it starts from.

    Raises:
        SettingsError: It cannot be built for these images, or the weights to start from are of another network.
    """
    built = build(config.model, labels, image)
    if config.start_from is not None:
        _load(built, config)
    return built


def prepare(network: nn.Module, recipe: Recipe, device: torch.device, steps_per_epoch: int = _MANY_STEPS) -> nn.Module:
    """Set the recipe's dropout rates, add its batch normalisation, and move the network to the device, all in place."""
    if recipe.dropout is not None:
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = recipe.dropout
    if recipe.batch_norm:
        add_batch_norm(network, steps_per_epoch)
    # Convolutions are fastest in channels_last on CPUs and GPUs alike; the results are the same.
    moved: nn.Module = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def _load(network: nn.Module, config: RunConfig) -> None:
    """Load the weights of the file that the run starts from, but for those of another shape, as for other labels."""
    assert config.start_from is not None
    path = config.start_from.path
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises all kinds of exceptions
        # PyTorch's own message has many lines, and advises to run code from the file.
        raise SettingsError(
            f"--start-from {path} cannot be read as weights: it is damaged, or torch.save() did not write it, or it "
            "holds more than tensors. Save the network's state_dict()."
        ) from error
    state: dict[str, Any] = loaded if isinstance(loaded, dict) else {}
    state = next((state[key] for key in _WRAPPINGS if isinstance(state.get(key), dict)), state)
    own = network.state_dict()

    def fits(key: str, value: object) -> bool:
        return key in own and isinstance(value, Tensor) and own[key].shape == value.shape

    bare = [{str(key).removeprefix(prefix): value for key, value in state.items()} for prefix in _PREFIXES]
    fitting = max(({key: value for key, value in one.items() if fits(key, value)} for one in bare), key=len)
    if 2 * len(fitting) < len(own):
        raise SettingsError(
            f"--start-from {path} holds {len(fitting)} of the {len(own)} weights of {config.model}: it is of another "
            "network, or of other images."
        )
    network.load_state_dict(fitting, strict=False)
