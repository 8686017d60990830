"""Loads the templates of pages, each of which extends base.html.j2, and embeds images, so that a page is one file."""

import base64
import functools
import io

import jinja2
import numpy as np
import numpy.typing as npt
from PIL import Image


@functools.cache
def environment(package: str) -> jinja2.Environment:
    """Load the templates in the folder `templates` of a package, and the templates that all pages share."""
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader("hangtag.page")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def png_address(pixels: npt.NDArray[np.uint8], *, negated: bool) -> str:
    """Return a data URL that embeds an image, uint8 [height, width] or [height, width, 3], as a PNG file. ``negated``
    inverts the colours, so that garments, which are bright on black, are shown dark on white."""
    buffer = io.BytesIO()
    Image.fromarray(255 - pixels if negated else pixels).save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
