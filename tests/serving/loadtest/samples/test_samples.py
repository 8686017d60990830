import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hangtag.protos import classifier_pb2, tensors
from hangtag.protos import inference_pb2 as pb
from hangtag.serving.loadtest import samples
from hangtag.serving.loadtest.errors import SampleError
from hangtag.serving.loadtest.plan.target import Method, Target
from tests.serving.loadtest.fake_server import IMAGE, metadata

pytestmark = pytest.mark.slow

Tensor = pb.ModelMetadataResponse.TensorMetadata


def load(
    model: pb.ModelMetadataResponse, batch_size: int, seed: int, path: Path | None = None, method: Method = "infer"
) -> samples.SampleLibrary:
    return samples.load(Target(model.name, model.name, method=method), model, batch_size, seed, path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        Image.fromarray(np.full((28, 28), number * 40, np.uint8)).save(tmp_path / f"{number}.png")
    return tmp_path


def first_pixels(library: samples.SampleLibrary) -> list[int]:
    requests = [pb.ModelInferRequest.FromString(request) for request in library.requests]
    return [request.raw_input_contents[0][0] for request in requests]


def test_images_are_sent_equally_often_in_a_seeded_order(folder: Path) -> None:
    library = load(metadata("cnn"), batch_size=1, seed=0, path=folder)
    pixels = first_pixels(library)
    counts = [pixels.count(value) for value in (0, 40, 80)]
    assert max(counts) - min(counts) <= 1
    assert library.samples.source == f"3 images from {folder}"
    assert first_pixels(load(metadata("cnn"), 1, 0, folder)) == pixels
    assert first_pixels(load(metadata("cnn"), 1, 1, folder)) != pixels


def test_a_batch_holds_several_images(folder: Path) -> None:
    library = load(metadata("cnn"), batch_size=5, seed=0, path=folder)
    request = pb.ModelInferRequest.FromString(library.requests[0])
    assert request.model_name == "cnn"
    assert list(request.inputs[0].shape) == [5, 28, 28]
    assert len(request.raw_input_contents[0]) == 5 * 784


def test_images_fit_models_with_a_channel_axis(folder: Path) -> None:
    channels_last = metadata("m", Tensor(name="image", datatype="UINT8", shape=[-1, 28, 28, 1]))
    request = pb.ModelInferRequest.FromString(load(channels_last, 2, 0, folder).requests[0])
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
        load(metadata("cnn", *inputs), 1, 0, folder)


def test_images_of_another_size_are_refused_by_name(folder: Path) -> None:
    Image.fromarray(np.zeros((10, 20), np.uint8)).save(folder / "odd.png")
    with pytest.raises(SampleError, match=r"odd\.png has 20x10 pixels; model 'cnn' takes 28x28"):
        load(metadata("cnn"), 1, 0, folder)


def test_smaller_images_are_tiled_on_black(folder: Path) -> None:
    """As for a model with several labels: 2 by 2 images of 28 pixels on 64, with a black border of 4."""
    canvas = Tensor(name="image", datatype="UINT8", shape=[-1, 64, 64])
    library = load(metadata("cnn_rnn", canvas), 1, 0, folder)
    assert library.samples.source == f"3 images from {folder}, 4 side by side in a picture of 64x64"
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


def test_images_may_be_of_any_usual_format(tmp_path: Path) -> None:
    for place, name in enumerate(("a.PNG", "b.jpg", "c.jpeg", "d.webp", "e.bmp", "f.gif")):
        Image.fromarray(np.full((28, 28), 40 * place, np.uint8)).save(tmp_path / name)
    library = load(metadata("cnn"), 1, 0, tmp_path)
    assert library.samples.source == f"6 images from {tmp_path}"
    sent = library.samples.inputs["image"][:, 0, 0].astype(int)  # JPEG and WebP are lossy.
    assert np.abs(sent - np.arange(6) * 40).max() <= 4


def test_neighbours_are_consecutive_from_a_random_sample(tmp_path: Path) -> None:
    """As in LoadGen's multi-stream scenario; the last sample is followed by the first."""
    np.savez(tmp_path / "a.npz", image=np.arange(50, dtype=np.uint8)[:, None, None].repeat(28, 1).repeat(28, 2))
    target = Target("cnn", "cnn")
    library = samples.load(target, metadata("cnn"), 8, 0, tmp_path / "a.npz", neighbours=True)
    first = []
    for sent in library.requests:
        (pixels,) = pb.ModelInferRequest.FromString(sent).raw_input_contents
        places = np.frombuffer(pixels, np.uint8).reshape(8, -1)[:, 0].astype(int)
        assert (np.diff(places) % 50 == 1).all()
        first.append(int(places[0]))
    assert len(set(first)) == 50  # 256 requests start at every index, the last ones included.
    assert first != sorted(first)


@pytest.mark.parametrize("size", [(40, 40), (28, 65), (65, 28), (100, 100)])
def test_images_that_fit_once_but_do_not_fill_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / "only.png")
    canvas = Tensor(name="image", datatype="UINT8", shape=[-1, 64, 64])
    with pytest.raises(
        SampleError, match=r"only\.png has \d+x\d+ pixels; model 'm' takes 64x64, or smaller images, all"
    ):
        load(metadata("m", canvas), 1, 0, tmp_path)


def test_a_file_that_is_no_image_is_refused_by_name(folder: Path) -> None:
    (folder / "text.png").write_text("no image")
    with pytest.raises(SampleError, match=r"text\.png cannot be read"):
        load(metadata("cnn"), 1, 0, folder)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(SampleError, match=r"holds no images \(\.png, \.jpg, .*\) and no t10k-images"):
        load(metadata("cnn"), 1, 0, tmp_path)


@given(
    datatype=st.sampled_from(list(tensors.DTYPES)),
    shape=st.lists(st.integers(1, 5), max_size=3),
    batch_size=st.integers(1, 3),
)
def test_random_values_fit_every_fixed_shape_and_datatype(datatype: str, shape: list[int], batch_size: int) -> None:
    model = metadata("any", Tensor(name="x", datatype=datatype, shape=[-1, *shape]))
    library = load(model, batch_size, seed=0)
    request = pb.ModelInferRequest.FromString(library.requests[0])
    array = tensors.from_raw(datatype, request.inputs[0].shape, request.raw_input_contents[0])
    assert array.shape == (batch_size, *shape)
    assert library.samples.source == f"random values for x {datatype} {[-1, *shape]}"


def test_a_library_is_bounded_in_bytes() -> None:
    model = metadata("big", Tensor(name="x", datatype="FP64", shape=[-1, 4 << 20]))
    assert len(load(model, 1, 0).requests) == 2


@pytest.mark.parametrize(
    ("tensor", "batch_size", "message"),
    [
        (Tensor(name="x", datatype="FP32", shape=[-1, -1]), 1, "every size but the first is fixed"),
        (Tensor(name="x", datatype="FP32", shape=[1, 3]), 2, "--batch-size has to be 1"),
        (Tensor(name="x", datatype="BF16", shape=[-1]), 1, "'BF16' cannot be generated"),
    ],
)
def test_inputs_that_cannot_be_generated_are_refused(tensor: Tensor, batch_size: int, message: str) -> None:
    with pytest.raises(SampleError, match=message):
        load(metadata("m", tensor), batch_size, 0)


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    """Three test images and their labels, in Fashion-MNIST's files."""
    images = np.arange(3 * 784, dtype=np.uint8).reshape(3, 28, 28)
    header = bytes((0, 0, 8, 3)) + b"".join(length.to_bytes(4, "big") for length in (3, 28, 28))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1, 0, 0, 0, 3, 9, 0, 4)))
    return tmp_path


def test_test_images_come_with_their_labels(data_set: Path) -> None:
    library = load(metadata("cnn"), 1, 0, data_set)
    assert library.samples.source == f"3 test images from {data_set}"
    assert library.samples.labels is not None
    assert library.samples.labels.tolist() == [9, 0, 4]
    assert library.samples.inputs["image"][1, 0, 0] == 784 % 256
    (data_set / "t10k-labels-idx1-ubyte").unlink()
    assert load(metadata("cnn"), 1, 0, data_set).samples.labels is None


def test_each_sample_is_sent_once_and_in_order(data_set: Path) -> None:
    library = load(metadata("cnn"), 1, 0, data_set)
    batches = list(library.each_sample_once(2))
    assert [list(indices) for indices, _ in batches] == [[0, 1], [2]]
    requests = [pb.ModelInferRequest.FromString(request) for _, request in batches]
    assert b"".join(request.raw_input_contents[0] for request in requests) == library.samples.inputs["image"].tobytes()


@pytest.mark.parametrize(
    "content", [b"", b"no idx", bytes((0, 0, 8, 1, 0, 0, 0, 9, 1)), bytes((0, 0, 9, 1, 0, 0, 0, 1, 1))]
)
def test_a_broken_data_set_is_refused_by_name(data_set: Path, content: bytes) -> None:
    (data_set / "t10k-labels-idx1-ubyte").write_bytes(content)
    with pytest.raises(SampleError, match="t10k-labels-idx1-ubyte cannot be read as an IDX file"):
        load(metadata("cnn"), 1, 0, data_set)


def test_an_npz_file_has_an_array_for_each_input(tmp_path: Path) -> None:
    file = tmp_path / "samples.npz"
    np.savez(file, image=np.full((4, 28, 28), 7, np.uint8), more=np.arange(4.0, dtype=np.float32), labels=np.arange(4))
    model = metadata("two", IMAGE, Tensor(name="more", datatype="FP32", shape=[-1]))
    library = load(model, 2, 0, file)
    request = pb.ModelInferRequest.FromString(library.requests[0])
    assert [list(tensor.shape) for tensor in request.inputs] == [[2, 28, 28], [2]]
    assert library.samples.source == f"4 samples from {file}"
    assert library.samples.labels is not None
    assert len(library.samples.labels) == 4


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"picture": np.zeros(1)}, "holds picture; model 'cnn' takes 'image'"),
        ({"image": np.zeros((2, 28, 28))}, r"is float64 \[2, 28, 28\]; model 'cnn' takes UINT8 \[samples, 28, 28\]"),
        ({"image": np.zeros((2, 14, 14), np.uint8)}, r"is uint8 \[2, 14, 14\]; model"),
        ({"image": np.zeros((0, 28, 28), np.uint8)}, "one at least"),
        ({"image": np.zeros((2, 28, 28), np.uint8), "labels": np.zeros(3, int)}, "equally many samples"),
        ({"image": np.zeros((2, 28, 28), np.uint8), "labels": np.zeros(2)}, "one whole number a sample"),
    ],
)
def test_an_npz_file_that_does_not_fit_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "s.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(SampleError, match=message):
        load(metadata("cnn"), 1, 0, tmp_path / "s.npz")


def test_a_file_that_is_no_npz_of_numbers_is_refused_with_what_to_name(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no zip")
    (tmp_path / "empty").touch()
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "objects.npz", image=np.array([{}], object))
    for name in ("text", "empty", "array.npy", "objects.npz"):
        with pytest.raises(SampleError, match=rf"{name} is no \.npz file of numbers: name a folder, or a file that"):
            load(metadata("cnn"), 1, 0, tmp_path / name)
    with pytest.raises(SampleError, match=r"missing\.npz cannot be read: No such file or directory"):
        load(metadata("cnn"), 1, 0, tmp_path / "missing.npz")


def test_classify_sends_an_image_file(folder: Path) -> None:
    library = load(metadata("cnn"), 1, 0, folder, "classify")
    request = classifier_pb2.ClassifyRequest.FromString(library.requests[0])
    assert request.model_name == "cnn"
    sent = np.asarray(Image.open(io.BytesIO(request.encoded)))
    assert sent.shape == (28, 28)
    assert library.method.endswith("/Classify")


def test_classify_takes_single_images_only(folder: Path) -> None:
    with pytest.raises(SampleError, match="one image a call"):
        load(metadata("cnn"), 2, 0, folder, "classify")
    with pytest.raises(SampleError, match="takes no grey image"):
        load(metadata("m", Tensor(name="x", datatype="FP32", shape=[-1, 3])), 1, 0, None, "classify")
