"""Embeds images in a page, which then needs no other file."""

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image


def png_address(pixels: npt.NDArray[np.uint8], *, negated: bool) -> str:
    """An image, uint8 [height, width] or [height, width, 3], as the address of an embedded PNG file.

    Args:
        pixels: The image.
        negated: Show garments, which are bright on black, dark on white.
    """
    buffer = io.BytesIO()
    Image.fromarray(255 - pixels if negated else pixels).save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
