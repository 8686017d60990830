"""From uint8 images to a network's answers: the preprocessing, and prediction a batch at a time."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hangtag.training.data.fashion_mnist import Images


def normalise(images: Tensor) -> Tensor:
    """Pixels 0..255 of any dtype to floats in [0, 1]: the only preprocessing there is."""
    return images.to(torch.float32) / 255


def predict(
    model: nn.Module, images: Images, batch_size: int = 500, check: Callable[[], None] = lambda: None
) -> npt.NDArray[np.float32]:
    """Logits [n, 10] of uint8 images [n, 28, 28], with the model in evaluation mode.

    check: called before each batch; what it raises ends the prediction.
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
