"""Embeds images in a page, so that the page needs no other file."""

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image


def png_address(pixels: npt.NDArray[np.uint8], *, negated: bool) -> str:
    """Return a data URL that embeds an image as a PNG file.

    Args:
        pixels: The image, uint8 [height, width] or [height, width, 3].
        negated: Whether to invert the colours. Garments are bright on black, and are shown dark on white.
    """
    buffer = io.BytesIO()
    Image.fromarray(255 - pixels if negated else pixels).save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
