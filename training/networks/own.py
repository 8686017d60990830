"""Builds the user's own networks, ``package.module:callable``, and timm's networks, ``timm:NAME``.

The callable takes the number of labels and the :class:`~hangtag.serving.image_spec.ImageSpec`. It returns a
``torch.nn.Module`` that maps pixels, FP32 [batch, channels, height, width], normalised by the image's mean and std, to
logits, FP32 [batch, labels]. The network must accept a batch of any size, and each sample's logits must depend only on
that sample.
"""

import contextlib
import importlib
import io
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hangtag.serving.image_spec import ImageSpec
from hangtag.training.errors import SettingsError


def is_own(network: str) -> bool:
    """Return True if this names one of the user's or timm's networks, and False if it names one of hangtag's."""
    return ":" in network


def build(network: str, labels: int, image: ImageSpec) -> nn.Module:
    """Build a network with fresh weights, drawn from torch's global random state, and try it on three images of noise.
    Raises SettingsError if the network cannot be imported, or is not what the module's description requires."""
    make = find(network)
    try:
        made = make(labels, image)
    except Exception as error:  # the user's callable may raise any exception
        raise SettingsError(
            f"{network} cannot be built ({type(error).__name__}: {error}). A callable of your own gets the number of "
            "labels and the image's description, and must return a torch.nn.Module."
        ) from error
    if not isinstance(made, nn.Module):
        raise SettingsError(f"{network} returned {type(made).__name__}; it must return a torch.nn.Module.")
    if next(made.parameters(), None) is None:
        raise SettingsError(f"{network} returned a network without parameters, which cannot learn.")
    _try(network, made, labels, image)
    return made


def find(network: str) -> Callable[[int, ImageSpec], Any]:
    """Import the module of a network, and return the callable that builds the network. Raises SettingsError if the
    module cannot be imported, or has no such callable."""
    module, _, name = network.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # the user's module may raise any exception
        if module == "timm":
            raise SettingsError(f"{network} needs the package timm. Install it with: pip install timm") from error
        raise SettingsError(
            f"{network} cannot be imported ({type(error).__name__}: {error}). Name a network of your own as "
            "MODULE:CALLABLE, such as nets:build for build() in nets.py. The module must be installed, or be in "
            f"{here}."
        ) from error
    if module == "timm":
        return lambda labels, image: imported.create_model(name, num_classes=labels, in_chans=image.channels)
    make: Callable[..., Any] | None = getattr(imported, name, None)
    if not callable(make):
        raise SettingsError(f"{module} has no callable {name!r}; write package.module:callable.")
    return make


def why_not_exportable(network: nn.Module, image: ImageSpec) -> str | None:
    """Return PyTorch's error if PyTorch cannot export a network with a free batch size; otherwise None. The
    export to ONNX begins with the same step, and would fail for the same reason, but only after training."""
    dimensions = ({0: torch.export.Dim("batch")},)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # torch also prints the error
            warnings.simplefilter("ignore")
            torch.export.export(network.eval(), (_noise(image),), dynamic_shapes=dimensions, strict=False)
    except Exception as error:  # the user's network may raise any exception
        return next(iter(str(error).splitlines()), "").rstrip(".") or type(error).__name__
    return None


def _noise(image: ImageSpec) -> torch.Tensor:
    """Return three images of noise, from a generator that does not change the global random state."""
    random = torch.Generator().manual_seed(0)
    return torch.randn(3, image.channels, image.height, image.width, generator=random)


def _try(network: str, made: nn.Module, labels: int, image: ImageSpec) -> None:
    """Check a network's logits for three images in a batch, and for the first image alone."""
    pixels, answers = _noise(image), []
    made.eval()  # the training loop sets the mode again
    for batch in (pixels, pixels[:1]):
        try:
            with torch.inference_mode():
                logits = made(batch)
        except Exception as error:  # the user's network may raise any exception
            raise SettingsError(
                f"{network} fails on pixels of the shape {list(batch.shape)}, [batch, channels, height, width] "
                f"({type(error).__name__}: {error})."
            ) from error
        expected = f"torch.float32 [{len(batch)}, {labels}]"
        is_tensor = isinstance(logits, torch.Tensor)
        actual = f"{logits.dtype} {list(logits.shape)}" if is_tensor else type(logits).__name__
        if actual != expected:
            raise SettingsError(
                f"{network} returned {actual} for {len(batch)} images; it must return logits, {expected}."
            )
        answers.append(logits)
    together, alone = answers
    sums = together.sum(dim=1)
    if not torch.isfinite(torch.cat(answers)).all():
        raise SettingsError(
            f"{network} returned NaN or infinite logits for images of noise before any training. "
            "Look for a division by zero, or for a logarithm or a root of a number that may be 0 or negative."
        )
    if (together >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        raise SettingsError(
            f"{network} seems to end in a softmax: its outputs are from 0 to 1 and add up to 1. It must return logits, "
            "because the loss applies a softmax. Remove the last softmax."
        )
    if not torch.allclose(together[:1], alone, rtol=1e-3, atol=1e-3):
        raise SettingsError(
            f"{network} computes different logits for an image in a batch and for the image alone: they differ by "
            f"{(together[:1] - alone).abs().max():.2g}. Each image's logits must depend only on that image. A mean "
            "over the first axis, for example, would depend on the rest of the batch."
        )
