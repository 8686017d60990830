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


def build(network: str, labels: int, image: ImageSpec) -> nn.Module:
    """Build a network, with fresh weights from torch's global random state, and try it on three noisy images.

    Args:
        network: ``package.module:callable``, or ``timm:NAME``.
        labels: How many there are.
        image: What it sees.

    Raises:
        SettingsError: It cannot be imported, is no network, does not map images to logits, FP32 [batch, labels], or
            answers an image otherwise in company than alone.
    """
    where, _, name = network.partition(":")
    made = _timm(name, labels, image) if where == TIMM else _called(network, labels, image)
    if not isinstance(made, nn.Module):
        raise SettingsError(f"{network} returned {type(made).__name__}; it must return a torch.nn.Module.")
    if next(made.parameters(), None) is None:
        raise SettingsError(f"{network} returned a network without parameters, which cannot learn.")
    _try(network, made, labels, image)
    return made


def find(network: str) -> Any:
    """Import timm, or the module of a network of the user's own, and return the one or the other's callable.

    Raises:
        SettingsError: It cannot be imported, or the module has no such callable.
    """
    module, _, name = network.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)  # as python -m has it
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # somebody's module may fail in any way
        if module == TIMM:
            raise SettingsError(f"{network} needs the package timm. Install it with: pip install timm") from error
        raise SettingsError(f"{network} cannot be imported ({type(error).__name__}: {error}).") from error
    if module == TIMM:
        return imported
    make: Callable[..., Any] | None = getattr(imported, name, None)
    if not callable(make):
        raise SettingsError(f"{module} has no callable {name!r}; write package.module:callable.")
    return make


def _timm(name: str, labels: int, image: ImageSpec) -> Any:
    timm = find(f"{TIMM}:{name}")
    try:
        return timm.create_model(name, num_classes=labels, in_chans=image.channels)
    except RuntimeError as error:
        near = ", ".join(timm.list_models(f"*{name[:6]}*")[:5])
        raise SettingsError(f"timm has no network {name!r}{f'; it has {near}' if near else ''}.") from error


def _called(network: str, labels: int, image: ImageSpec) -> Any:
    make = find(network)
    try:
        return make(labels, image)
    except Exception as error:  # somebody's callable may fail in any way
        raise SettingsError(
            f"{network} failed ({type(error).__name__}: {error}). It is called with the number of labels and the "
            "image's description, and must return a torch.nn.Module."
        ) from error


def _try(network: str, made: nn.Module, labels: int, image: ImageSpec) -> None:
    """Answer three images together, and one of them alone."""
    random = torch.Generator().manual_seed(0)  # the global state decides the weights, and nothing else
    pixels = torch.randn(3, image.channels, image.height, image.width, generator=random)
    was_training = made.training
    answers = []
    try:
        made.eval()
        for batch in (pixels, pixels[:1]):
            with torch.inference_mode():
                answers.append(made(batch))
    except Exception as error:  # as above
        raise SettingsError(
            f"{network} fails on pixels {list(batch.shape)}, which are [batch, channels, height, width] "
            f"({type(error).__name__}: {error})."
        ) from error
    finally:
        made.train(was_training)
    for batch, logits in zip((pixels, pixels[:1]), answers, strict=True):
        expected = f"it must return logits, torch.float32 [{len(batch)}, {labels}]"
        if not isinstance(logits, torch.Tensor):
            raise SettingsError(f"{network} returned {type(logits).__name__} for {len(batch)} images; {expected}.")
        if logits.dtype != torch.float32 or tuple(logits.shape) != (len(batch), labels):
            actual = f"{logits.dtype} {list(logits.shape)}"
            raise SettingsError(f"{network} returned {actual} for {len(batch)} images; {expected}.")
    together, alone = answers[0][:1], answers[1]
    if not torch.allclose(together, alone, rtol=1e-3, atol=1e-3):
        raise SettingsError(
            f"{network} answers an image otherwise together with others than alone, or with numbers that are not "
            "finite. Each image's logits must depend on that image alone."
        )
