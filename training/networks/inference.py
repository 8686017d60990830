"""Inference: from uint8 images to logits, batch by batch, with the only preprocessing that there is."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hangtag.serving.image_spec import ImageSpec
from hangtag.training.data.dataset import Images


def normalise(images: Tensor, image: ImageSpec) -> Tensor:
    """Images [batch, height, width] or [batch, height, width, 3], 0 to 255, to FP32 [batch, channels, height, width].

    Pixels become (pixel / 255 - mean) / std.
    """
    pixels = images.to(torch.float32) / 255
    pixels = pixels.unsqueeze(1) if image.channels == 1 else pixels.permute(0, 3, 1, 2)
    if any(image.mean) or any(each != 1 for each in image.std):
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (image.mean, image.std))
        pixels = (pixels - mean) / std
    return pixels


def predict(
    model: nn.Module, images: Images, image: ImageSpec, batch_size: int = 500, check: Callable[[], None] = lambda: None
) -> npt.NDArray[np.float32]:
    """Logits [n, labels] of images, with the model in evaluation mode.

    Args:
        model: Maps what ``normalise`` returns to logits [batch, labels].
        images: uint8, [n, height, width] or [n, height, width, 3].
        image: Describes them.
        batch_size: How many images are computed at once.
        check: Called before each batch; an exception of it ends the prediction.
    """
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        batches = []
        for start in range(0, len(images), batch_size):
            check()
            batch = torch.tensor(images[start : start + batch_size], device=device)
            batches.append(model(normalise(batch, image)).cpu())
    logits: npt.NDArray[np.float32] = torch.cat(batches).numpy()
    return logits
