"""Embeds images in a page, which then needs no other file."""

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image


def png_address(pixels: npt.NDArray[np.uint8]) -> str:
    """A grey image, uint8 [height, width], as the address of an embedded PNG file: garments dark on white."""
    buffer = io.BytesIO()
    Image.fromarray(255 - pixels).save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
