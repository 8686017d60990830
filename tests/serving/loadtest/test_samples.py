"""Samples are random values, the images of a folder, the files of a data set, or the arrays of an .npz file."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from tests.kit import own_pictures
from tests.kit.fake_server import IMAGE, FakeServer, Tensor
from tests.serving.loadtest.command import LOOP, QUICK, Loadtest, Measured

CANVAS = Tensor(name="image", datatype="UINT8", shape=[-1, 64, 64])


def sent(server: FakeServer, model: str = "fast") -> list[dict[str, tensors.Array]]:
    """The inputs of each query to a model, by name. The probe call that precedes the queries is left out."""
    calls = [request for request in server.requests if request.model_name == model][1:]
    return [
        {
            tensor.name: tensors.from_raw(tensor.datatype, tensor.shape, raw)
            for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        for request in calls
    ]


def source(measured: Measured, model: str = "fast") -> str:
    return str(measured.document["samples"][model])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Plain grey images with every common suffix. Their grey values are 40 apart because JPEG and WebP are lossy."""
    (tmp_path / "images").mkdir()
    for place, name in enumerate(("0.PNG", "1.jpg", "2.jpeg", "3.webp", "4.png", "5.WebP")):
        Image.fromarray(np.full((28, 28), 40 * place, np.uint8)).save(tmp_path / "images" / name)
    return tmp_path / "images"


def test_images_are_sent_equally_often_in_a_seeded_order(server: FakeServer, loadtest: Loadtest, folder: Path) -> None:
    def order(seed: int) -> list[int]:
        before = len(server.requests) + 1  # one probe call precedes the queries
        measured = loadtest("fast", *LOOP, "--min-query-count", 30, "--seed", seed, "--samples", folder)
        assert source(measured) == f"6 images from {folder}"
        return [round(request.raw_input_contents[0][0] / 40) for request in server.requests[before:]][:30]

    first, again, other = order(0), order(0), order(1)
    rounds = [tuple(first[at : at + 6]) for at in range(0, 30, 6)]
    assert all(sorted(each) == [0, 1, 2, 3, 4, 5] for each in rounds)
    assert len(set(rounds)) > 1
    assert first == again
    assert first != other


def configured(**metadata: object) -> pb.ModelConfig:
    """The configuration of a model whose file has this metadata."""
    values = {
        f"hangtag.{key}": pb.ModelParameter(string_value=value if isinstance(value, str) else json.dumps(value))
        for key, value in metadata.items()
    }
    return pb.ModelConfig(max_batch_size=64, parameters=values)


def test_images_fit_inputs_with_other_axes_and_are_prepared_as_the_models_file_says(
    server: FakeServer, loadtest: Loadtest, folder: Path
) -> None:
    """The multi-label model gets each image whole, in the middle of a larger canvas."""
    server.inputs["channels-last"] = [Tensor(name="image", datatype="UINT8", shape=[-1, 28, 28, 1])]
    server.inputs["canvas"] = [CANVAS]
    garments = {"height": 64, "width": 64, "fit": "garment"}
    server.configs = {"canvas": configured(image=garments, task="multi_label")}
    for file in folder.iterdir():
        Image.fromarray(np.pad(np.full((26, 26), 255, np.uint8), 1)).save(file)  # a bright image with a black edge
    measured = loadtest("fast", "channels-last", "canvas", *LOOP, "--samples", folder)
    assert {each["image"].shape for each in sent(server)} == {(1, 28, 28)}
    assert {each["image"].shape for each in sent(server, "channels-last")} == {(1, 28, 28, 1)}
    assert source(measured, "canvas") == f"6 images from {folder}"
    for each in sent(server, "canvas"):
        (pixels,) = each["image"] > 127
        assert pixels[19:45, 19:45].mean() > 0.95
        assert pixels.sum() <= 27 * 27


@pytest.mark.parametrize("given", ["", "folder:"])
def test_a_folder_for_each_label_is_read_in_colour_and_its_labels_are_the_models(
    server: FakeServer, loadtest: Loadtest, tmp_path: Path, given: str
) -> None:
    """A folder's name is the colour of its pictures. The model answers with the values of the three colours."""

    def answer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        pixels = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(list(request.inputs[0].shape))
        response = pb.ModelInferResponse(model_name=request.model_name)
        values = pixels[:, 0, 0].astype(np.float32)
        response.outputs.add(name="probabilities", datatype="FP32", shape=values.shape)
        response.raw_output_contents.append(values.tobytes())
        return response

    server.answer = answer
    server.inputs["colours"] = [Tensor(name="image", datatype="UINT8", shape=[-1, 8, 12, 3])]
    stated = {"height": 8, "width": 12, "channels": 3, "fit": "crop"}
    server.configs = {"colours": configured(image=stated, labels=["red", "green", "blue"])}
    for place, label in enumerate(("red", "green", "blue")):
        (tmp_path / "photos" / label / "more").mkdir(parents=True)
        pixels = np.zeros((40, 30, 3), np.uint8)
        pixels[..., place] = 200
        Image.fromarray(pixels).save(tmp_path / "photos" / label / "1.png")
        Image.fromarray(pixels[:8, :12]).save(tmp_path / "photos" / label / "more" / "2.png")
    wrong = tmp_path / "photos/red/3.png"
    Image.fromarray(pixels).save(wrong)
    measured = loadtest("colours", *LOOP, "--accuracy", "--samples", f"{given}{tmp_path / 'photos'}")
    assert source(measured, "colours") == f"7 images of 3 labels from {tmp_path / 'photos'}"
    (target,) = measured.document["targets"]
    assert (target["accuracy"]["correct"], target["accuracy"]["total"]) == (6, 7)
    assert {each["image"].shape for each in sent(server, "colours")} <= {(1, 8, 12, 3), (7, 8, 12, 3)}
    rows = [(str(each.relative_to(tmp_path)), each.parts[-2]) for each in (tmp_path / "photos").glob("*/*.png")]
    listed = loadtest("colours", *LOOP, "--accuracy", "--samples", f"csv:{own_pictures.csv(tmp_path / 'l.csv', rows)}")
    assert listed.document["targets"][0]["accuracy"]["correct"] == 3
    (tmp_path / "photos" / "pink").mkdir()
    wrong.rename(tmp_path / "photos" / "pink" / "3.png")
    loadtest.refused("photos pink 'colours' green; blue rename", "colours", *LOOP, "--samples", tmp_path / "photos")


def test_a_multi_stream_query_holds_neighbours_from_a_random_sample(
    server: FakeServer, loadtest: Loadtest, tmp_path: Path
) -> None:
    """As in LoadGen, a query that reaches the last sample continues with the first sample."""
    image = np.arange(50, dtype=np.uint8)[:, None, None].repeat(28, 1).repeat(28, 2)
    np.savez(tmp_path / "a.npz", image=image)
    measured = loadtest("fast", *QUICK, "--scenario", "multi-stream", "--samples", tmp_path / "a.npz")
    assert source(measured) == f"50 samples from {tmp_path / 'a.npz'}"
    places = [each["image"][:, 0, 0].astype(int) for each in sent(server)]
    assert all((np.diff(each) % 50 == 1).all() for each in places)
    first = [int(each[0]) for each in places]
    assert len(set(first)) == 50  # each sample comes first in at least one query
    assert first != sorted(first)


def test_random_values_fit_every_datatype_and_fixed_shape(server: FakeServer, loadtest: Loadtest) -> None:
    shapes: tuple[list[int], ...] = ([], [3], [2, 1], [1, 2, 3])
    server.inputs["every"] = [
        Tensor(name=datatype.lower(), datatype=datatype, shape=[-1, *shapes[place % len(shapes)]])
        for place, datatype in enumerate(tensors.DTYPES)
    ]
    server.inputs["fixed"] = [Tensor(name="x", datatype="FP32", shape=[2, 3])]
    every = loadtest("every", *LOOP, "--batch-size", 2)
    for each in sent(server, "every"):
        for tensor in server.inputs["every"]:
            assert each[tensor.name].shape == (2, *tensor.shape[1:])
    different = {bytes(request.raw_input_contents[-1]) for request in server.requests}
    assert len(different) > 1
    assert source(every, "every").startswith("random values for ")
    loadtest("fixed", *LOOP)
    assert {each["x"].shape for each in sent(server, "fixed")} == {(2, 3)}


def test_the_requests_in_memory_are_bounded_in_bytes(server: FakeServer, loadtest: Loadtest) -> None:
    """All requests in memory may together take at most 64 MiB. Each request to this model takes 32 MiB."""
    server.inputs["big"] = [Tensor(name="x", datatype="FP64", shape=[-1, 4 << 20])]
    loadtest("big", *LOOP, "--min-query-count", 3, "--max-query-count", 3, "--min-duration", "1ms")
    assert len(server.requests) == 4
    assert len({request.raw_input_contents[0] for request in server.requests}) == 2


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    """Three test images and their labels, in files of Fashion-MNIST's format."""
    folder = tmp_path / "data"
    folder.mkdir()
    images = np.arange(3 * 784, dtype=np.uint8).reshape(3, 28, 28)
    header = bytes((0, 0, 8, 3)) + b"".join(length.to_bytes(4, "big") for length in (3, 28, 28))
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1, 0, 0, 0, 3, 9, 0, 4)))
    return folder


def test_a_data_sets_test_images_are_read(server: FakeServer, loadtest: Loadtest, data_set: Path) -> None:
    """test_accuracy covers the labels."""
    measured = loadtest("fast", *LOOP, "--samples", f"idx:{data_set}")
    assert source(measured) == f"3 test images from {data_set}"
    seen = {each["image"].tobytes() for each in sent(server)}
    assert seen == {bytes((784 * at + pixel) % 256 for pixel in range(784)) for at in range(3)}


def test_an_npz_file_has_an_array_for_each_input(server: FakeServer, loadtest: Loadtest, tmp_path: Path) -> None:
    server.inputs["two"] = [IMAGE, Tensor(name="more", datatype="FP32", shape=[-1])]
    more = np.arange(4.0, dtype=np.float32)
    np.savez(tmp_path / "s.npz", image=np.full((4, 28, 28), 7, np.uint8), more=more, labels=np.arange(4))
    measured = loadtest("two", *LOOP, "--samples", tmp_path / "s.npz", "--batch-size", 2)
    assert source(measured, "two") == f"4 samples from {tmp_path / 's.npz'}"
    for each in sent(server, "two"):
        assert (each["image"] == 7).all()
        assert each["image"].shape == (2, 28, 28)
        assert set(each["more"]) <= {0, 1, 2, 3}


def zeros(*shape: int, dtype: type = np.uint8) -> tensors.Array:
    return np.zeros(shape, dtype)


LABELS = "t10k-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "content", "model", "facts"),
    [
        ("s.npz", {"picture": zeros(1)}, "fast", "s.npz picture 'fast' 'image'"),
        ("s.npz", {"image": zeros(2, 28, 28, dtype=float)}, "fast", "float64 [2, 28, 28] UINT8 [samples, 28, 28]"),
        ("s.npz", {"image": zeros(2, 14, 14)}, "fast", "s.npz uint8 [2, 14, 14]"),
        ("s.npz", {"image": zeros(0, 28, 28)}, "fast", "s.npz must have"),
        ("s.npz", {"image": zeros(2, 28, 28), "labels": zeros(3, dtype=int)}, "fast", "s.npz must have"),
        ("s.npz", {"image": zeros(2, 28, 28), "labels": zeros(2, dtype=float)}, "fast", "s.npz labels whole"),
        ("s.npz", {"image": np.array([{}], object)}, "fast", "s.npz numpy.savez"),
        ("text", b"no zip", "fast", "numpy.savez"),
        ("empty", b"", "fast", "numpy.savez"),
        ("images/text.png", b"no image", "fast", "text.png"),
        ("images/odd.png", (10, 20), "fast", "odd.png 10x20 'fast' 28x28"),
        ("images/odd.png", b"GIF89a", "fast", "odd.png PNG, JPEG or WebP"),
        ("other/notes.txt", b"no image", "fast", "no images (.png, .jpg, t10k-images"),
        ("other/red/1.png", (28, 28), "fast", "other red 'fast'"),
        ("s.npz", {"images": zeros(2, 28, 28), "labels": np.array(["red", "blue"])}, "fast", "s.npz blue; red 'fast'"),
        (f"data/{LABELS}", b"no idx", "fast", f"{LABELS} IDX"),
        (f"data/{LABELS}", bytes((0, 0, 8, 1, 0, 0, 0, 9, 1)), "fast", f"{LABELS} IDX"),
        (f"data/{LABELS}", bytes((0, 0, 10, 1, 0, 0, 0, 1, 1)), "fast", f"{LABELS} IDX"),
        *(("images/0.png", (28, 28), model, f"'{model}' images UINT8") for model in ("floats", "flat", "both")),
        ("images/0.png", (28, 28), "free", "'free' UINT8 [any, any, 28] images"),
    ],
)
def test_samples_that_cannot_be_read_or_do_not_fit_are_refused_by_name(
    server: FakeServer,
    loadtest: Loadtest,
    folder: Path,
    data_set: Path,
    tmp_path: Path,
    name: str,
    content: bytes | tuple[int, int] | dict[str, tensors.Array],
    model: str,
    facts: str,
) -> None:
    server.inputs |= {
        "canvas": [CANVAS],
        "floats": [Tensor(name="image", datatype="FP32", shape=[-1, 28, 28])],
        "flat": [Tensor(name="image", datatype="UINT8", shape=[-1, 784])],
        "free": [Tensor(name="image", datatype="UINT8", shape=[-1, -1, 28])],
        "both": [IMAGE, IMAGE],
    }
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(file, **content)  # type: ignore[arg-type]
    else:
        Image.fromarray(zeros(*reversed(content))).save(file)
    samples = tmp_path / Path(name).parts[0]
    loadtest.refused(facts, model, *LOOP, "--samples", samples)
    assert server.requests == []


@pytest.mark.parametrize(
    ("model", "more", "facts"),
    [
        ("free", "", "'x' 'free' FP32 [any, any] fixed"),
        ("fixed", "--batch-size 2", "'x' --batch-size 1"),
        ("bf16", "", "'BF16'"),
        ("fast", "--method classify --batch-size 2", "--batch-size 1"),
        ("flat", "--method classify", "'flat' grey"),
    ],
)
def test_values_that_cannot_be_generated_are_refused(
    server: FakeServer, loadtest: Loadtest, model: str, more: str, facts: str
) -> None:
    server.inputs |= {
        "free": [Tensor(name="x", datatype="FP32", shape=[-1, -1])],
        "fixed": [Tensor(name="x", datatype="FP32", shape=[1, 3])],
        "bf16": [Tensor(name="x", datatype="BF16", shape=[-1])],
        "flat": [Tensor(name="x", datatype="FP32", shape=[-1, 3])],
    }
    loadtest.refused(facts, model, *LOOP, *more.split())
