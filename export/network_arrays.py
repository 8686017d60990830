"""The types of the arrays that networks accept and return, and a function that divides images into batches."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
"""Images, [n, height, width]."""
Array = npt.NDArray[Any]
Answers = Mapping[str, Array]
"""A network's answers: output name -> array, whose first axis is the image."""


def batches(images: Pixels, size: int) -> Iterator[Pixels]:
    """Divide images into batches of at most ``size`` images, in order."""
    return (images[start : start + size] for start in range(0, len(images), size))
