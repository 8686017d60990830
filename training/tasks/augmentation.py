"""Augments whole batches with tensor operations, without a Python loop over images."""

import torch
from torch import Tensor

from hangtag.training.recipes import Augmentation

_ERASED_AREA = (0.02, 0.2)  # the smallest and the largest area, as shares of the image's area
_ERASED_ASPECT = (0.3, 3.3)  # the smallest and the largest ratio of height to width


def augment(images: Tensor, how: Augmentation) -> Tensor:
    """Change images [batch, height, width] or [batch, height, width, 3], uint8, at random as a recipe describes. Random
    numbers come from torch's global random state on the CPU, so a seed gives the same images on every device."""
    if how.flip:
        flipped = (torch.rand(len(images)) < 0.5).to(images.device)
        images = torch.where(flipped.reshape(-1, *[1] * (images.ndim - 1)), images.flip(2), images)
    if limit := round(how.shift if how.shift >= 1 else how.shift * min(images.shape[1:3])):
        images = _shift(images, limit)
    if how.erase:
        images = _erase(images, how.erase)
    return images


def _shift(images: Tensor, limit: int) -> Tensor:
    batch, height, width = images.shape[:3]
    around = (limit, limit, limit, limit) if images.ndim == 3 else (0, 0, limit, limit, limit, limit)
    padded = torch.nn.functional.pad(images, around)
    offsets = torch.randint(0, 2 * limit + 1, (2, batch, 1)).to(images.device)
    rows = offsets[0] + torch.arange(height, device=images.device)  # [batch, height]
    columns = offsets[1] + torch.arange(width, device=images.device)  # [batch, width]
    return padded[torch.arange(batch, device=images.device)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _erase(images: Tensor, probability: float) -> Tensor:
    batch, height, width = images.shape[:3]
    chosen, area, aspect, top, left = torch.rand(5, batch)
    area = height * width * (_ERASED_AREA[0] + area * (_ERASED_AREA[1] - _ERASED_AREA[0]))
    low, high = torch.tensor(_ERASED_ASPECT).log()
    aspect = (low + aspect * (high - low)).exp()
    tall = (area * aspect).sqrt().clamp(1, height).round()
    wide = (area / aspect).sqrt().clamp(1, width).round()
    top, left = (top * (height - tall + 1)).floor(), (left * (width - wide + 1)).floor()
    rows, columns = torch.arange(height), torch.arange(width)
    in_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])  # [batch, height]
    in_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])  # [batch, width]
    erased = in_rows[:, :, None] & in_columns[:, None, :] & (chosen < probability)[:, None, None]
    if images.ndim == 4:
        erased = erased[..., None]  # in all channels
    noise = torch.randint(0, 256, images.shape, dtype=torch.uint8)
    return torch.where(erased.to(images.device), noise.to(images.device), images)
