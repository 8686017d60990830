"""Samples from .npz files: what is read, how it is split, and what is refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hangtag.export.errors import ExportError
from hangtag.export.quantization import samples
from hangtag.serving.signature import Signature
from tests.export.foreign import models as foreign
from tests.export.quantization import networks
from tests.kit import onnx_models

Read = Callable[..., samples.Samples]


@pytest.fixture
def read(tmp_path: Path, signature: Callable[[onnx.ModelProto], Signature]) -> Read:
    """Writes arrays into a .npz file, and reads it as samples for a model."""

    def write_and_read(model: onnx.ModelProto, **arrays: Any) -> samples.Samples:
        np.savez(tmp_path / "samples.npz", **arrays)
        return samples.read(tmp_path / "samples.npz", signature(model), None)

    return write_and_read


def test_the_halves_are_disjoint_and_hold_every_sample(read: Read) -> None:
    given = read(networks.sensitive(), x=networks.samples(101))
    made, proof = ([feed["x"].tobytes() for feed in feeds] for feeds in (given.making, given.proof))
    assert not set(made) & set(proof)
    assert len(set(made) | set(proof)) == 101
    assert {feed["x"].tobytes() for feed in given.calibration} <= set(made)
    assert given.proof[0]["x"].shape == (1, networks.FEATURES)


def test_what_calibrates_comes_from_all_parts_of_the_file(read: Read) -> None:
    """Files are often in the order of their classes."""
    order = np.repeat(np.arange(2000, dtype=np.float32)[:, None], networks.FEATURES, axis=1)
    places = [float(feed["x"][0, 0]) for feed in read(networks.sensitive(), x=order).calibration]
    assert len(places) == 256
    assert np.diff(places).max() <= 8
    assert places[0] == 0
    assert places[-1] >= 1990


def test_samples_of_a_model_without_a_batch_axis_have_one_axis_more(read: Read) -> None:
    """A scalar may have one value for each sample, or one for all."""
    arrays: dict[str, Any] = {"x": np.zeros((50, 1, 16), np.float32), "state": np.zeros((50, 2, 1, 4), np.float32)}
    for rate in (np.array(3), np.full(50, 3)):
        feed = read(foreign.streamed(), rate=rate, **arrays).proof[0]
        assert {name: array.shape for name, array in feed.items()} == {"x": (1, 16), "state": (2, 1, 4), "rate": ()}
        assert feed["rate"].dtype == np.int64


def test_texts_are_read(read: Read) -> None:
    feed = read(onnx_models.text(), text=np.array(["some", "words"] * 25)).making[0]
    assert feed["text"].tolist() == ["some"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": networks.samples()}, r"holds arrays named y; the model's inputs are x: FP32 \[any, 16\]\. .*savez"),
        ({"x": networks.samples(), "y": networks.samples()}, "holds arrays named x, y; the model's inputs are x: FP32"),
        ({"x": networks.samples(39)}, "holds 39 samples; at least 40 are needed"),
        ({"x": networks.samples(0)}, "holds 0 samples; at least 40 are needed"),
        ({"x": networks.samples()[:, :9]}, r"'x' has shape \[200, 9\], which is no row of samples for .* \[any, 16\]"),
        ({"x": networks.samples()[0]}, r"'x' has shape \[16\], which is no row of samples"),
        ({"x": np.full((50, 16), np.nan)}, "the array 'x' holds NaN or infinity"),
        ({"x": np.full((50, 16), "text")}, "the array 'x' is <U4; the model's input is x: FP32"),
        ({"x": np.full((50, 16), {}, object)}, r"cannot be read as a \.npz file of numbers and texts"),
    ],
)
def test_samples_that_do_not_fit_are_refused(read: Read, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError) as caught:
        read(networks.sensitive(), **arrays)
    assert re.search(message, str(caught.value)), caught.value


def test_arrays_of_different_lengths_are_refused(read: Read) -> None:
    with pytest.raises(ExportError, match="every array must have one row a sample; there are a 50, b 49"):
        read(onnx_models.two_inputs(), a=np.zeros((50, 3)), b=np.zeros((49, 3), int))


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 damaged"])
def test_a_file_that_is_no_npz_is_refused(
    content: bytes, tmp_path: Path, signature: Callable[[onnx.ModelProto], Signature]
) -> None:
    (tmp_path / "samples.npz").write_bytes(content)
    with pytest.raises(ExportError, match=r"cannot be read as a \.npz file"):
        samples.read(tmp_path / "samples.npz", signature(networks.sensitive()), None)


def test_other_paths_are_refused(tmp_path: Path, signature: Callable[[onnx.ModelProto], Signature]) -> None:
    read_signature = signature(networks.sensitive())
    with pytest.raises(ExportError, match="there is no file or folder"):
        samples.read(tmp_path / "none.npz", read_signature, None)
    np.save(tmp_path / "one.npy", networks.samples())
    with pytest.raises(ExportError, match=r"is one array without a name\. Write it with numpy\.savez"):
        samples.read(tmp_path / "one.npy", read_signature, None)
    with pytest.raises(ExportError, match=r"--preprocessing is for a folder of images"):
        samples.read(tmp_path / "one.npy", read_signature, "scale=255")
