"""Writes files in the layout of VOC 2007: six simple images, or images whose classes a network learns quickly."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

IMAGES = {
    "train": {"000005": ["chair", "chair", "person"], "000007": ["car"]},
    "val": {"000012": ["dog", "sofa"]},
    "test": {"000001": ["person", "dog"], "000002": ["train"], "000003": ["tvmonitor"]},
}
BARS = ("bird", "boat", "bus", "car")
"""The classes in the images of ``write_bars``."""


def annotation(name: str, objects: Sequence[str]) -> str:
    """An annotation in VOC's format, shortened to a few fields."""
    things = "".join(
        f"<object><name>{thing}</name><pose>Left</pose><truncated>0</truncated><difficult>{index % 2}</difficult>"
        "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>"
        for index, thing in enumerate(objects)
    )
    return (
        f"<annotation><folder>VOC2007</folder><filename>{name}.jpg</filename>"
        f"<size><width>50</width><height>37</height><depth>3</depth></size><segmented>0</segmented>{things}</annotation>"
    )


def write(folder: Path) -> Path:
    """Write six images, dark red on the left and white on the right, into a folder, and return the folder."""
    pixels = np.full((37, 50, 3), 255, np.uint8)
    pixels[:, :25] = (100, 0, 0)
    for image_set, images in IMAGES.items():
        _write(folder, image_set, {name: (pixels, objects) for name, objects in images.items()})
    return folder


def write_bars(folder: Path, count: int) -> Path:
    """Write this many images for each split. The classes of an image are the places of its two bright bars."""
    rng = np.random.default_rng(0)
    for number, image_set in enumerate(IMAGES):
        images = {}
        for index in range(count):
            shown = [(0, 1), (0, 2), (2, 3), (1, 3)][index % 4]
            pixels = rng.integers(0, 30, (64, 64, 3), dtype=np.uint8)
            for bar in shown:
                pixels[16 * bar : 16 * bar + 12] += np.uint8(150)
            images[f"{number}{index:05}"] = pixels, [BARS[bar] for bar in shown]
        _write(folder, image_set, images)
    return folder


def _write(folder: Path, image_set: str, images: Mapping[str, tuple[npt.NDArray[np.uint8], Sequence[str]]]) -> None:
    root = folder / "VOCdevkit" / "VOC2007"
    for part in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (root / part).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / "Main" / f"{image_set}.txt").write_text("".join(f"{name}\n" for name in images))
    for name, (pixels, objects) in images.items():
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        (root / "Annotations" / f"{name}.xml").write_text(annotation(name, objects))
