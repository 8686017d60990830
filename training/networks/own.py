"""Networks of the user's own, and timm's, by name.

The user's are named ``package.module:callable``. The callable takes the number of labels and the
:class:`~hangtag.serving.image_spec.ImageSpec`, and returns a ``torch.nn.Module`` that maps pixels, FP32 [batch,
channels, height, width], normalised by the image's mean and std, to logits, FP32 [batch, labels]. It must do so for any
batch, and each sample's logits must depend on that sample alone. Dropout and normalisations are the network's own.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hangtag.serving.image_spec import ImageSpec
from hangtag.training.errors import SettingsError

TIMM = "timm"


def is_own(network: str) -> bool:
    """Whether a network's name is one of the user's own, or of timm's."""
    return ":" in network


def short_name(network: str) -> str:
    """A name for folders and models, such as resnet18 for timm:resnet18 and build for nets:build."""
    return network.rpartition(":")[2].replace(".", "-").lower()


def build(network: str, labels: int, image: ImageSpec) -> nn.Module:
    """Build a network, with fresh weights from torch's global random state, and try it on two blank images.

    Args:
        network: ``package.module:callable``, or ``timm:NAME``.
        labels: How many there are.
        image: What it sees.

    Raises:
        SettingsError: It cannot be imported, is no network, or does not map two images to logits [2, labels].
    """
    where, _, name = network.partition(":")
    made = _timm(name, labels, image) if where == TIMM else _called(where, name, labels, image)
    if not isinstance(made, nn.Module):
        raise SettingsError(f"{network} returned {type(made).__name__}; it must return a torch.nn.Module.")
    if next(made.parameters(), None) is None:
        raise SettingsError(f"{network} returned a network without parameters, which cannot learn.")
    _try(network, made, labels, image)
    return made


def _timm(name: str, labels: int, image: ImageSpec) -> Any:
    try:
        import timm  # type: ignore[import-not-found]  # nothing that hangtag installs needs it
    except ImportError as error:
        raise SettingsError(f"timm:{name} needs the package timm. Install it with: pip install timm") from error
    try:
        return timm.create_model(name, num_classes=labels, in_chans=image.channels)
    except RuntimeError as error:
        near = ", ".join(timm.list_models(f"*{name[:6]}*")[:5])
        raise SettingsError(f"timm has no network {name!r}{f'; it has {near}' if near else ''}.") from error


def _called(module: str, name: str, labels: int, image: ImageSpec) -> Any:
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)  # as python -m has it
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # somebody's module may fail in any way
        raise SettingsError(f"{module}:{name} cannot be imported ({type(error).__name__}: {error}).") from error
    make: Callable[..., Any] | None = getattr(imported, name, None)
    if not callable(make):
        raise SettingsError(f"{module} has no callable {name!r}; write package.module:callable.")
    try:
        return make(labels, image)
    except Exception as error:  # as above
        raise SettingsError(
            f"{module}:{name} failed ({type(error).__name__}: {error}). It is called with the number of labels and the "
            "image's description, and must return a torch.nn.Module."
        ) from error


def _try(network: str, made: nn.Module, labels: int, image: ImageSpec) -> None:
    pixels = torch.zeros(2, image.channels, image.height, image.width)
    was_training = made.training
    try:
        with torch.inference_mode():
            logits = made.eval()(pixels)
    except Exception as error:  # as above
        raise SettingsError(
            f"{network} fails on pixels {list(pixels.shape)}, which are [batch, channels, height, width] "
            f"({type(error).__name__}: {error})."
        ) from error
    finally:
        made.train(was_training)
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != (2, labels):
        shape = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise SettingsError(f"{network} returned {shape} for two images; it must return logits [2, {labels}].")
