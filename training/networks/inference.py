"""Inference: from uint8 images to logits, batch by batch, with the only preprocessing that there is."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hangtag.training.data.fashion_mnist import Images


def normalise(images: Tensor) -> Tensor:
    """Pixels 0..255 of any dtype and shape to FP32 in [0, 1]."""
    return images.to(torch.float32) / 255


def predict(
    model: nn.Module, images: Images, batch_size: int = 500, check: Callable[[], None] = lambda: None
) -> npt.NDArray[np.float32]:
    """Logits [n, 10] of images, with the model in evaluation mode.

    Args:
        model: Maps pixels [batch, 28, 28] in [0, 1] to logits [batch, 10].
        images: uint8, [n, 28, 28].
        batch_size: How many images are computed at once.
        check: Called before each batch; an exception of it ends the prediction.
    """
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        batches = []
        for start in range(0, len(images), batch_size):
            check()
            batches.append(model(normalise(torch.tensor(images[start : start + batch_size], device=device))).cpu())
    logits: npt.NDArray[np.float32] = torch.cat(batches).numpy()
    return logits
