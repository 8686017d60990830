"""The arrays that PyTorch and an ONNX file take and return, and how images are cut into batches."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
"""Images, [n, height, width]."""
Array = npt.NDArray[Any]
Answers = Mapping[str, Array]
"""Output name -> array, whose first axis is the image."""


def batches(images: Pixels, size: int) -> Iterator[Pixels]:
    """Cut images into batches of at most ``size``, in order."""
    return (images[start : start + size] for start in range(0, len(images), size))
