"""In serving, a network receives exactly the same pixels of a picture as in training."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from hangtag.serving.image_spec import ImageSpec
from hangtag.training.data import sources
from hangtag.training.data.pictures import OwnPictures
from tests.kit import onnx_models
from tests.kit.command import invoke
from tests.kit.server import server

EXIF_ORIENTATION = 0x0112
SIZE = (7, 6)
"""The height and width of the images that the network receives."""


def mirror(image: ImageSpec) -> onnx.ModelProto:
    """A classifier that returns its input: the probability of each label is one pixel value, divided by 255."""
    count, shape = int(np.prod(image.shape)), ", ".join(map(str, image.shape))
    return onnx_models.from_text(
        f"""(uint8[batch, {shape}] image) => (float[batch, {count}] probabilities)
        <int64[2] flat = {{-1, {count}}}, float most = {{255.0}}> {{
            pixels = Cast <to = 1> (image)
            rows = Reshape(pixels, flat)
            probabilities = Div(rows, most)
        }}""",
        {
            "hangtag.task": "single_label",
            "hangtag.labels": json.dumps([f"value {index}" for index in range(count)]),
            "hangtag.image": json.dumps(image.as_json()),
        },
    )


def write_pictures(root: Path) -> list[Path]:
    """Write random pictures for two classes: in every mode of each format, in several sizes, upright and rotated."""
    random = np.random.default_rng(0)

    def noise(mode: str, size: tuple[int, int]) -> Image.Image:
        if mode == "I;16":
            return Image.fromarray(random.integers(0, 1 << 16, size[::-1], np.uint16))
        colours = Image.fromarray(random.integers(0, 256, (*size[::-1], 4), np.uint8), "RGBA")
        return colours if mode == "RGBA" else colours.convert("RGB").convert(mode)

    written: list[Path] = []

    def save(name: str, mode: str, size: tuple[int, int], **options: Any) -> None:
        file = root / ("odd", "even")[len(written) % 2] / name
        file.parent.mkdir(parents=True, exist_ok=True)
        noise(mode, size).save(file, **options)
        written.append(file)

    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        save(f"{mode[0]}{len(mode)}-{len(written)}.png", mode, (21, 13))
    save("transparent.png", "P", (13, 21), transparency=3)
    save("transparent-grey.png", "L", (30, 30), transparency=40)
    save("cmyk.jpg", "CMYK", (40, 9))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = orientation
        save(f"turned-{orientation}.jpg", "RGB", (31, 14), exif=exif, quality=95)
        save(f"fits-turned-{orientation}.png", "RGB", SIZE if orientation > 4 else SIZE[::-1], exif=exif)
    save("lossless.webp", "RGBA", (17, 17), lossless=True)
    save("lossy.webp", "RGB", (9, 33))
    save("large.jpg", "RGB", (900, 700))  # too large to be converted in a single band
    return written


@pytest.mark.parametrize(
    ("channels", "fits"), [(1, ("stretch", "crop", "pad", "garment")), (3, ("stretch", "crop", "pad"))]
)
def test_a_picture_gives_the_same_pixels_in_training_and_in_the_server(
    tmp_path: Path, channels: int, fits: tuple[str, ...]
) -> None:
    pictures, trained = write_pictures(tmp_path / "pictures"), {}
    for fit in fits:
        data = sources.load(f"folder:{tmp_path / 'pictures'}", own=OwnPictures(SIZE, channels, fit))
        images = [image for split in (data.train, data.validation, data.test) for image in split.images]
        trained[fit] = Counter(image.tobytes() for image in images)
        assert len(trained[fit]) == len(pictures)
        onnx_models.publish(tmp_path / "models", fit, mirror(data.image))
    with server(tmp_path / "models") as running:
        for fit, expected in trained.items():
            arguments = ("classify", "--server", running.address, "--model", fit, "--json", "--top-k", 200, *pictures)
            assert Counter(map(pixels, invoke(*arguments).stdout.splitlines())) == expected, fit


def pixels(answer: str) -> bytes:
    """The pixels that the model received, computed from its answer."""
    values = {label["index"]: label["probability"] * 255 for label in json.loads(answer)["labels"]}
    seen = np.array([values[index] for index in range(len(values))])
    np.testing.assert_allclose(seen, seen.round(), atol=1e-3)
    return seen.round().astype(np.uint8).tobytes()
