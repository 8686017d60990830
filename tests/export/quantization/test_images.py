"""Samples from a folder of images: every layout, the stated preprocessing, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from PIL import Image

from hangtag.export.errors import ExportError
from hangtag.export.quantization import images
from hangtag.serving.signature import Signature
from tests.export.quantization.networks import colours
from tests.kit import onnx_models

Read = Callable[[onnx.ModelProto], Signature]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of one colour each, one of them in a subfolder, and a file that is none."""
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    for name, colour in (("a.png", (255, 0, 51)), ("b.webp", (0, 0, 0)), ("more/c.png", (255, 255, 255))):
        Image.new("RGB", (20, 10), colour).save(photos / name, lossless=True)
    (photos / "notes.txt").write_text("no image")
    return photos


def test_pixels_become_numbers_as_stated(folder: Path, signature: Read) -> None:
    stated = "order=bgr scale=255 mean=0,0.5,1 std=1,1,2"
    first, second, third = images.read(folder, signature(colours("NCHW")), stated)
    assert first["image"].shape == (1, 3, 8, 8)
    assert first["image"].dtype == np.float32
    assert first["image"][0, :, 0, 0] == pytest.approx([0.2, -0.5, 0.0])  # blue, green, red
    assert second["image"][0, :, 7, 7] == pytest.approx([0, -0.5, -0.5])
    assert third["image"][0, :, 3, 3] == pytest.approx([1, 0.5, 0])


@pytest.mark.parametrize(("layout", "shape"), [("NHWC", (1, 8, 8, 3)), ("NHW", (1, 8, 8)), ("NCHW", (1, 3, 8, 8))])
def test_raw_pixels_need_no_preprocessing(layout: str, shape: tuple[int, ...], folder: Path, signature: Read) -> None:
    white = list(images.read(folder, signature(colours(layout, TensorProto.UINT8)), None))[2]["image"]
    assert white.dtype == np.uint8
    assert white.shape == shape
    assert (white == 255).all()


def test_a_free_size_is_stated(folder: Path, signature: Read) -> None:
    model = signature(colours("NCHW", TensorProto.UINT8, "any"))
    with pytest.raises(ExportError, match="state its size with --preprocessing size=HEIGHTxWIDTH"):
        list(images.read(folder, model, None))
    assert next(images.read(folder, model, "size=4x6"))["image"].shape == (1, 3, 4, 6)


def test_of_a_large_folder_some_images_are_taken_evenly(
    folder: Path, signature: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MOST", 2)
    taken = [feed["image"][0, 0, 0].tolist() for feed in images.read(folder, signature(colours("NHWC", 2)), None)]
    assert taken == [[255, 0, 51], [255, 255, 255]]


@pytest.mark.parametrize(
    "stated",
    [
        "size=8", "size=0x8", "order=gbr", "scale=0", "scale=1,2,3", "mean=1,2", "std=-1", "mean=nan", "mean=",
        "nonsense", "crop=5",
    ],
)  # fmt: skip
def test_a_preprocessing_that_is_not_understood_is_refused_with_an_example(stated: str) -> None:
    with pytest.raises(ExportError, match=r"--preprocessing: .* is not understood \(.*\)\. For example: --preproc"):
        images.Preprocessing.parse(f"scale=255 {stated}")


def test_what_does_not_fit_the_model_is_refused(folder: Path, signature: Read) -> None:
    def refusal(model: onnx.ModelProto, stated: str | None) -> str:
        with pytest.raises(ExportError) as caught:
            list(images.read(folder, signature(model), stated))
        return str(caught.value)

    assert "say how pixels from 0 to 255 become its numbers. For example: " in refusal(colours("NCHW"), None)
    assert "size=9x9 does not fit the model's input" in refusal(colours("NCHW"), "size=9x9")
    assert "has 3 means or stds, and the model's input 1 channel" in refusal(colours("NHW"), "mean=1,2,3")
    assert "are no single image" in refusal(onnx_models.two_inputs(), "scale=1")
    assert "are no single image" in refusal(onnx_models.text(), "scale=1")


def test_a_damaged_image_is_named(folder: Path, signature: Read) -> None:
    (folder / "a.png").write_bytes(b"damaged")
    with pytest.raises(ExportError, match=r"photos/a\.png cannot be read as an image"):
        list(images.read(folder, signature(colours("NCHW", TensorProto.UINT8)), None))
