"""Which samples are used to convert and to validate a file, which are refused, and when two answers agree."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from hangtag.export.errors import ExportError
from hangtag.export.quantization import agreement, calibration_samples
from hangtag.export.quantization.agreement import EQUAL, LABELS, VALUES, Agreement, Comparison
from hangtag.serving.signature import Signature, TensorSpec
from hangtag.training.errors import DataCorruptError

Shape = tuple[int | None, ...]


def specs(**tensors: tuple[str, Shape]) -> tuple[TensorSpec, ...]:
    """The specs of these tensors: name -> datatype and shape."""
    return tuple(TensorSpec(name, datatype, shape) for name, (datatype, shape) in tensors.items())


def signature(**inputs: tuple[str, Shape]) -> Signature:
    """The signature of a model with these inputs."""
    return Signature(specs(**inputs), specs(y=("FP32", (None, 5))), {})


ROWS = signature(x=("FP32", (None, 16)))
TWO = signature(a=("FP32", (None, 3)), b=("INT64", (None,)))


def rows(count: int = 200) -> Any:
    return np.random.default_rng(0).normal(0, 1, (count, 16)).astype(np.float32)


def from_arrays(folder: Path, model: Signature, **arrays: Any) -> Sequence[calibration_samples.Feed]:
    np.savez(folder / "samples.npz", **arrays)
    return calibration_samples.read(folder / "samples.npz", model)


def test_what_calibrates_comes_from_all_parts_of_the_file(tmp_path: Path) -> None:
    """In many files, the samples are sorted by class."""
    order = np.repeat(np.arange(2000, dtype=np.float32)[:, None], 16, axis=1)
    feeds = calibration_samples.spread(from_arrays(tmp_path, ROWS, x=order), 256)
    places = [float(feed["x"][0, 0]) for feed in feeds]
    assert len(places) == 256
    assert np.diff(places).max() <= 8
    assert places[0] == 0
    assert places[-1] >= 1990


def test_samples_of_a_model_without_a_batch_axis_have_one_axis_more(tmp_path: Path) -> None:
    """A scalar input has either one value per sample or one value for all samples."""
    streamed = signature(x=("FP32", (None, None)), state=("FP32", (2, None, 4)), rate=("INT64", ()))
    arrays: dict[str, Any] = {"x": np.zeros((50, 1, 16), np.float32), "state": np.zeros((50, 2, 1, 4), np.float32)}
    for rate in (np.array(3), np.full(50, 3)):
        feed = from_arrays(tmp_path, streamed, rate=rate, **arrays)[0]
        assert {name: array.shape for name, array in feed.items()} == {"x": (1, 16), "state": (2, 1, 4), "rate": ()}
        assert feed["rate"].dtype == np.int64


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": rows(39)}, "holds 39 samples; at least 40 are needed"),
        ({"x": np.full((50, 16), np.nan)}, "the array 'x' holds NaN or infinity"),
        ({"x": np.full((50, 16), "text")}, "the array 'x' is <U4; the model's input is x: FP32"),
        (
            {"a": np.zeros((50, 3)), "b": np.zeros(49, int)},
            "every array needs one row per sample, but there are 50 rows in a, 49 rows in b",
        ),
        ({"x": np.full((50, 16), {}, object)}, r"cannot be read as a \.npz file of numbers and texts"),
    ],
)
def test_samples_that_do_not_fit_are_refused(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        from_arrays(tmp_path, TWO if "a" in arrays else ROWS, **arrays)
    assert re.search(message, str(caught.value)), caught.value


def test_other_files_are_refused(tmp_path: Path) -> None:
    for content in (b"", b"no zip", b"PK\x03\x04 damaged"):
        (tmp_path / "samples.npz").write_bytes(content)
        with pytest.raises(ExportError, match=r"cannot be read as a \.npz file"):
            calibration_samples.read(tmp_path / "samples.npz", ROWS)
    with pytest.raises(ExportError, match="there is no file or folder"):
        calibration_samples.read(tmp_path / "none.npz", ROWS)
    np.save(tmp_path / "one.npy", rows())
    with pytest.raises(ExportError, match=r"is one array without a name\. Write it with numpy\.savez"):
        calibration_samples.read(tmp_path / "one.npy", ROWS)


# Samples from folders of images.


def pictures_in(*shape: int | None, **metadata: str) -> Signature:
    return replace(signature(image=("UINT8", (None, *shape))), metadata=metadata)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with 39 pictures, whose left halves are white, a subfolder with one more picture, and a text file."""
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    halves = Image.new("RGB", (20, 10), "white")
    halves.paste("black", (10, 0, 20, 10))
    for place in range(39):
        halves.save(photos / f"{place:02}.{'webp' if place else 'png'}", lossless=True)
    halves.save(photos / "more/last.png")
    (photos / "notes.txt").write_text("no picture")
    return photos


@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 8)])
@pytest.mark.parametrize("fit", [None, "pad"])
def test_pictures_are_made_to_fit_as_the_file_says_and_else_are_stretched(
    fit: str | None, shape: tuple[int, ...], folder: Path
) -> None:
    image = {"height": 8, "width": 8, "channels": 3 if len(shape) == 3 else 1, "fit": fit}
    taken = calibration_samples.read(folder, pictures_in(*shape, **({"image": json.dumps(image)} if fit else {})))
    assert len(taken) == 40
    pixels = taken[-1]["image"]
    assert pixels.dtype == np.uint8
    assert pixels.shape == (1, *shape)
    assert (pixels[0, 0, 0] == 255).all() == (fit is None)  # with --fit pad, the first row is padding


def test_of_a_large_folder_a_thousand_pictures_are_taken_evenly(tmp_path: Path) -> None:
    image = Image.new("L", (1, 1))
    for place in range(1999):
        image.putpixel((0, 0), place // 8)
        image.save(tmp_path / f"{place:04}.png")
    taken = [int(feed["image"].item()) for feed in calibration_samples.read(tmp_path, pictures_in(1, 1))]
    assert taken == [place * 1999 // 1000 // 8 for place in range(1000)]


@pytest.mark.parametrize(
    "model",
    [
        signature(image=("FP32", (None, 3, 8, 8))), pictures_in(3, 8, 8), pictures_in(None, 8, 3),
        signature(a=("UINT8", (None, 8, 8)), b=("INT64", (None,))), signature(text=("BYTES", (None,))),
    ],
)  # fmt: skip
def test_pictures_are_for_a_model_of_pictures(model: Signature, folder: Path) -> None:
    with pytest.raises(ExportError, match=r"has other inputs .* than one picture, .* State with --preprocessing how"):
        calibration_samples.read(folder, model)


def test_a_damaged_picture_is_named(folder: Path) -> None:
    (folder / "03.webp").write_bytes(b"damaged")
    with pytest.raises(DataCorruptError, match=r"photos/03\.webp cannot be read as a picture"):
        calibration_samples.read(folder, pictures_in(8, 8))


def compare(rule: str, expected: Any, answered: Any) -> int:
    """The number of samples for which the two answers agree. Each sample is one row."""
    rows = [[{"y": np.array([row])} for row in side] for side in (expected, answered)]
    return Comparison(rows[0], {"y": rule}).agreement(rows[1]).agreeing


@pytest.mark.parametrize(
    ("rule", "expected", "answered", "alike"),
    [
        (LABELS, [[1.0, 2.0], [5.0, 0.0], [0.0, 1.0]], [[0.1, 9.0], [0.0, 0.1], [0.4, 0.5]], 2),
        (LABELS, [[[1.0, 0], [0, 1.0]]] * 2, [[[1.0, 0], [0, 1.0]], [[1.0, 0], [1.0, 0]]], 1),  # all labels of a row
        (VALUES, [[0.0], [10.0], [5.0]], [[0.49], [9.49], [5.0]], 2),  # the range is 10, so the tolerance of 5 % is 0.5
        (EQUAL, [[1, 2], [3, 4]], [[1, 2], [3, 5]], 1),
        (EQUAL, [["a"], ["b"]], [["a"], ["c"]], 1),
    ],
)
def test_answers_are_alike_by_the_rule(rule: str, expected: Any, answered: Any, alike: int) -> None:
    assert compare(rule, expected, answered) == alike


@pytest.mark.parametrize("rule", [LABELS, VALUES])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_what_is_not_finite_is_like_nothing(rule: str, broken: float) -> None:
    assert compare(rule, [[1.0, 2.0], [3.0, 0.0]], [[1.0, broken], [3.0, 0.0]]) == 1
    rows = [{"y": np.array([[1.0, 2.0]])}]
    assert Comparison(rows, {"y": rule}).distance([{"y": np.array([[1.0, broken]])}]) == np.inf
    with pytest.raises(ExportError, match="original's own output 'y' is not finite"):
        Comparison([{"y": np.array([broken])}], {"y": rule})


def test_the_distance_is_a_share_of_the_spread() -> None:
    comparison = Comparison([{"y": np.array([0.0])}, {"y": np.array([10.0])}], {"y": VALUES})
    assert comparison.distance([{"y": np.array([1.0])}, {"y": np.array([10.0])}]) == pytest.approx(0.05)
    assert comparison.agreement([{"y": np.zeros(2)}] * 2).agreeing == 0  # answers of different shapes never agree


def test_the_bound_is_wilsons() -> None:
    for agreeing, count in ((299, 300), (100, 100), (20, 40)):
        wilson = binomtest(agreeing, count).proportion_ci(0.90, "wilson")  # a 90 % interval leaves 5 % on each side
        assert Agreement(agreeing, count).at_least == pytest.approx(wilson.low, abs=1e-4)


def answering(**outputs: tuple[str, Shape]) -> Signature:
    """The signature of a model with these outputs."""
    return Signature(specs(x=("FP32", (None, 3))), specs(**outputs), {})


@pytest.mark.parametrize(
    ("datatype", "shape", "answer", "rule"),
    [
        ("FP32", (None, 10), [[3.0, -5.0]], LABELS),
        ("FP32", (None,), [1.0], VALUES),
        ("INT64", (None, 1), [[1]], EQUAL),
        ("BYTES", (None, 1), [["text"]], EQUAL),
        ("FP32", (None, 2, 3), [[[0.2, 0.8, 0], [1, 0, 0.0]]], LABELS),
        ("FP32", (None, 2, 3), [[[0.2, -0.8, 0], [1, 0, 0.0]]], VALUES),
        ("FP32", (None, 2, None), [[[0.5, 0.5], [1, 0.0]]], VALUES),
    ],
)
def test_the_rule_fits_the_output(datatype: str, shape: tuple[int | None, ...], answer: Any, rule: str) -> None:
    assert agreement.rules(answering(y=(datatype, shape)), [{"y": np.array(answer)}], {}) == {"y": rule}
