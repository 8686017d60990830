from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from protos import inference_pb2 as pb
from protos import tensors
from serving.loadtest import samples
from serving.loadtest.errors import SampleError
from tests.serving.loadtest.fake_server import IMAGE, metadata

Tensor = pb.ModelMetadataResponse.TensorMetadata


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        Image.fromarray(np.full((28, 28), number * 40, np.uint8)).save(tmp_path / f"{number}.png")
    return tmp_path


def first_pixels(library: samples.SampleLibrary) -> list[int]:
    requests = [pb.ModelInferRequest.FromString(request) for request in library.requests]
    return [request.raw_input_contents[0][0] for request in requests]


def test_images_are_sent_equally_often_in_an_order_of_their_own_seed(folder: Path) -> None:
    library = samples.load(metadata("cnn"), batch_size=1, seed=0, images=folder)
    pixels = first_pixels(library)
    counts = [pixels.count(value) for value in (0, 40, 80)]
    assert max(counts) - min(counts) <= 1
    assert library.source == f"3 images from {folder}"
    assert first_pixels(samples.load(metadata("cnn"), 1, 0, folder)) == pixels
    assert first_pixels(samples.load(metadata("cnn"), 1, 1, folder)) != pixels


def test_a_batch_holds_several_images(folder: Path) -> None:
    library = samples.load(metadata("cnn"), batch_size=5, seed=0, images=folder)
    request = pb.ModelInferRequest.FromString(library.requests[0])
    assert request.model_name == "cnn"
    assert list(request.inputs[0].shape) == [5, 28, 28]
    assert len(request.raw_input_contents[0]) == 5 * 784


def test_images_fit_models_with_a_channel_axis(folder: Path) -> None:
    channels_last = metadata("m", Tensor(name="image", datatype="UINT8", shape=[-1, 28, 28, 1]))
    request = pb.ModelInferRequest.FromString(samples.load(channels_last, 2, 0, folder).requests[0])
    assert list(request.inputs[0].shape) == [2, 28, 28, 1]


@pytest.mark.parametrize(
    "inputs",
    [
        [Tensor(name="image", datatype="FP32", shape=[-1, 28, 28])],
        [Tensor(name="image", datatype="UINT8", shape=[-1, 784])],
        [Tensor(name="image", datatype="UINT8", shape=[-1, -1, 28])],
        [IMAGE, IMAGE],
    ],
)
def test_images_for_a_model_that_takes_none_are_refused(folder: Path, inputs: list[Tensor]) -> None:
    with pytest.raises(SampleError, match="takes no grey images"):
        samples.load(metadata("cnn", *inputs), 1, 0, folder)


def test_images_of_another_size_are_refused_by_name(folder: Path) -> None:
    Image.fromarray(np.zeros((10, 20), np.uint8)).save(folder / "odd.png")
    with pytest.raises(SampleError, match=r"odd\.png has 20x10 pixels; model 'cnn' takes 28x28"):
        samples.load(metadata("cnn"), 1, 0, folder)


def test_smaller_images_are_laid_side_by_side_on_black(folder: Path) -> None:
    """As garments for a model of several labels: 2 by 2 of 28 pixels on 64, with 4 of black around them."""
    canvas = Tensor(name="image", datatype="UINT8", shape=[-1, 64, 64])
    library = samples.load(metadata("cnn_rnn", canvas), 1, 0, folder)
    assert library.source == f"3 images from {folder}, 4 side by side in a picture of 64x64"
    seen = set()
    for sent in library.requests:
        request = pb.ModelInferRequest.FromString(sent)
        assert list(request.inputs[0].shape) == [1, 64, 64]
        pixels = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(64, 64)
        tiles = [pixels[top : top + 28, left : left + 28] for top in (4, 32) for left in (4, 32)]
        seen.add(tuple(int(tile[0, 0]) for tile in tiles))
        assert all((tile == tile[0, 0]).all() for tile in tiles)
        assert pixels.sum(dtype=int) == sum(tile.sum(dtype=int) for tile in tiles)
    assert seen == {(0, 40, 80, 0), (40, 80, 0, 40), (80, 0, 40, 80)}


@pytest.mark.parametrize("size", [(40, 40), (28, 65), (65, 28), (100, 100)])
def test_images_that_fit_once_but_do_not_fill_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / "only.png")
    canvas = Tensor(name="image", datatype="UINT8", shape=[-1, 64, 64])
    with pytest.raises(
        SampleError, match=r"only\.png has \d+x\d+ pixels; model 'm' takes 64x64, or smaller images, all"
    ):
        samples.load(metadata("m", canvas), 1, 0, tmp_path)


def test_a_file_that_is_no_image_is_refused_by_name(folder: Path) -> None:
    (folder / "text.png").write_text("no image")
    with pytest.raises(SampleError, match=r"text\.png cannot be read"):
        samples.load(metadata("cnn"), 1, 0, folder)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"holds no \.png files"):
        samples.load(metadata("cnn"), 1, 0, tmp_path)


@given(
    datatype=st.sampled_from(list(tensors.DTYPES)),
    shape=st.lists(st.integers(1, 5), max_size=3),
    batch_size=st.integers(1, 3),
)
def test_random_values_fit_every_fixed_shape_and_datatype(datatype: str, shape: list[int], batch_size: int) -> None:
    model = metadata("any", Tensor(name="x", datatype=datatype, shape=[-1, *shape]))
    library = samples.load(model, batch_size, seed=0)
    request = pb.ModelInferRequest.FromString(library.requests[0])
    array = tensors.from_raw(datatype, request.inputs[0].shape, request.raw_input_contents[0])
    assert array.shape == (batch_size, *shape)
    assert library.source == f"random values for x {datatype} {[-1, *shape]}"


def test_a_library_is_bounded_in_bytes() -> None:
    model = metadata("big", Tensor(name="x", datatype="FP64", shape=[-1, 4 << 20]))
    assert len(samples.load(model, 1, 0).requests) == 2


@pytest.mark.parametrize(
    ("tensor", "batch_size", "message"),
    [
        (Tensor(name="x", datatype="FP32", shape=[-1, -1]), 1, "every size but the first is fixed"),
        (Tensor(name="x", datatype="FP32", shape=[1, 3]), 2, "--batch-size has to be 1"),
        (Tensor(name="x", datatype="BF16", shape=[-1]), 1, "'BF16' cannot be made up"),
    ],
)
def test_what_cannot_be_made_up_is_said(tensor: Tensor, batch_size: int, message: str) -> None:
    with pytest.raises(SampleError, match=message):
        samples.load(metadata("m", tensor), batch_size, 0)
