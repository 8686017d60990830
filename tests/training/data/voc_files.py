"""VOC 2007 in small: its layout, with six images of a few classes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

IMAGES = {
    "train": {"000005": ["chair", "chair", "person"], "000007": ["car"]},
    "val": {"000012": ["dog", "sofa"]},
    "test": {"000001": ["person", "dog"], "000002": ["train"], "000003": ["tvmonitor"]},
}


def annotation(name: str, objects: Sequence[str]) -> str:
    """As VOC writes them, shortened to a few of its fields."""
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
    """The folder, now with six images under VOCdevkit, the left half of each dark red and the right half white."""
    root = folder / "VOCdevkit" / "VOC2007"
    for part in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (root / part).mkdir(parents=True)
    pixels = np.full((37, 50, 3), 255, np.uint8)
    pixels[:, :25] = (100, 0, 0)
    for image_set, images in IMAGES.items():
        (root / "ImageSets" / "Main" / f"{image_set}.txt").write_text("".join(f"{name}\n" for name in images))
        for name, objects in images.items():
            Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
            (root / "Annotations" / f"{name}.xml").write_text(annotation(name, objects))
    return folder
