"""``hangtag import --preprocessing``: a PyTorch network becomes a classifier of pictures, which a server serves."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image, ImageOps

from hangtag.serving.client import Client
from tests.kit import colour_networks, onnx_file, onnx_models
from tests.kit.colour_networks import COLOURS, MEAN, PREPROCESSING, SIZE, STD, in_text
from tests.kit.command import invoke, refusal
from tests.kit.exported import imported, importing
from tests.kit.once import once
from tests.kit.picture_files import encoded
from tests.kit.server import server

pytestmark = pytest.mark.slow

STEPS = "size=24x24 fit=stretch scale=255"


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file that PyTorch exported."""

    def make(folder: Path) -> Path:
        colour_networks.export(folder / "colours.onnx")
        return folder / "colours.onnx"

    return once(tmp_path_factory, "colour-network", make, sources=["tests/kit/colour_networks.py"])


def published(folder: Path, version: int = 1) -> Path:
    return folder / f"models/theirs/{version}/model.onnx"


def test_a_network_of_pytorch_is_served_and_classified_alike_over_every_way(
    network: Path, labels: Path, tmp_path: Path
) -> None:
    """With Pillow's preprocessing, PyTorch gives the picture the same labels."""
    photos = colour_networks.pictures(tmp_path / "photos")
    stated = ("--labels", labels, "--preprocessing", PREPROCESSING, "--data", f"folder:{photos}")
    places = ("--models", tmp_path / "models")
    (photos / "red/empty.png").touch()
    result = invoke("import", network, "--name", "theirs", *stated, *places)
    assert "Left out 1 picture that cannot be read: red/empty.png (it is empty (0 bytes)).\n" in result.stderr
    assert "  batching     batched: " in result.stdout
    within = r"logits within \S+ and probabilities within \S+ of the bare network's answers to 24 generated pictures"
    assert re.search(rf"  pictures     {within}", result.stdout)
    assert f"  accuracy     100.00% right of 60 pictures of folder:{photos}\n" in result.stdout
    result = invoke("import", network, "--name", "theirs", *stated, "--precision", "int8", *places)
    right = f"100.00% right of 30 pictures of folder:{photos}, without the 30 that were used to convert the file"
    assert f"  accuracy     {right}\n" in result.stdout
    assert "QuantizeLinear" in {
        node.op_type for node in onnx.load(tmp_path / "models/theirs-int8/1/model.onnx").graph.node
    }
    inputs, outputs = onnx_file.signature(published(tmp_path))
    assert inputs == {"image": ("UINT8", ["batch", SIZE, SIZE, 3])}
    assert outputs == {name: ("FLOAT", ["batch", 3]) for name in ("logits", "probabilities")}
    written = onnx_file.metadata(published(tmp_path))
    assert json.loads(written["image"]) == {
        "height": SIZE, "width": SIZE, "channels": 3, "mean": list(MEAN), "std": list(STD), "fit": "crop",
    }  # fmt: skip
    assert (written["test_accuracy"], json.loads(written["labels"])) == ("1.0000", list(COLOURS))
    assert json.loads(written["gate"])["pictures"]["limits"]["probabilities"] == 1e-4

    shown = invoke("models", "verify", *places).stdout
    assert re.search(r"not checked +agreement +the file was compared with the FP32 original", shown)
    assert re.search(rf"holds +accuracy +{right} \(recorded 100\.00%\)", shown)
    moved = Path(shutil.copytree(photos, tmp_path / "moved"))
    verifying = ("models", "verify", "theirs", *places, "--data-dir")
    assert f"of folder:{moved} (recorded 100.00%)" in invoke(*verifying, moved).stdout
    (moved / "green/7.png").unlink()
    for place, why in ((moved, "are not those that the file was tested on"), (tmp_path / "nowhere", "are not at")):
        assert re.search(rf"not checked +accuracy +the pictures .*{why}", invoke(*verifying, place, exit_code=1).stdout)

    file = photos / "green/7.png"
    expected = by_pillow(network, file)
    with server(tmp_path / "models", provider="cpu") as running:
        for model in ("theirs", "theirs-int8"):
            answers = []
            for address in (running.address, f"http://{running.http_address}"):
                with Client(address) as client:
                    answer = client.classify(file.read_bytes(), model=model)
                answers.append([(label.name, label.probability) for label in answer.labels])
            shown = invoke("classify", file, "--model", model, "--server", running.address, "--json").stdout
            answers.append([(label["name"], label["probability"]) for label in json.loads(shown)["labels"]])
            assert answers[0] == answers[1]
            assert [name for name, _ in answers[2]] == [name for name, _ in answers[0]]
            assert dict(answers[2]) == pytest.approx(dict(answers[0]), abs=1e-6)
            near = 1e-4 if model == "theirs" else 0.1
            assert dict(answers[0]) == pytest.approx(dict(zip(COLOURS, expected, strict=True)), abs=near)


def by_pillow(network: Path, file: Path) -> list[float]:
    """The network's probabilities for a picture that Pillow resized and cropped."""
    with Image.open(file) as picture:
        fitted = ImageOps.fit(picture.convert("RGB"), (SIZE, SIZE), Image.Resampling.BILINEAR)
    pixels = ((np.asarray(fitted) / 255 - MEAN) / STD).transpose(2, 0, 1).astype(np.float32)
    (name,) = onnx_file.signature(network)[0]
    (logits,) = onnx_file.answers(network, 1, **{name: pixels[None]}).values()
    powers = np.exp(logits[0] - logits[0].max())
    return list((powers / powers.sum()).tolist())


CAST = "pixels = Cast <to = 1> (image)"


@pytest.mark.parametrize(
    ("model", "stated", "pixel", "batched"),
    [
        (in_text(), STEPS, (1, 2, 3), True),
        (in_text(), f"{STEPS} order=bgr", (3, 2, 1), True),
        (in_text(), f"{STEPS} order=bgr mean=0.1,0.2,0.3", (3 - 25.5, 2 - 51, 1 - 76.5), True),
        (in_text("float[batch, 24, 24, 3]", axes="{1, 2}"), STEPS, (1, 2, 3), True),
        (in_text("float[a, b, c, d]", "float[a, e]"), STEPS, (1, 2, 3), True),
        (in_text("float16[batch, 3, 24, 24]", first=CAST), STEPS, (1, 2, 3), True),
        (in_text("uint8[batch, 3, 24, 24]", first=CAST), "fit=pad", (255, 2 * 255, 3 * 255), True),
        (in_text("float[1, 3, 24, 24]", "float[1, 3]"), STEPS, (1, 2, 3), False),
        (in_text(last="logits = Softmax(scores)"), STEPS, (1, 2, 3), True),
    ],
    ids=[
        "first", "bgr", "bgr and mean", "last", "free axes", "fp16", "uint8", "fixed to 1", "probabilities",
    ],
)  # fmt: skip
def test_pixels_reach_a_network_as_stated_whatever_its_input(
    model: onnx.ModelProto, stated: str, pixel: tuple[float, ...], batched: bool, labels: Path, tmp_path: Path
) -> None:
    imported(tmp_path, model, "--labels", labels, "--preprocessing", stated)
    file = published(tmp_path)
    image = np.full((1, SIZE, SIZE, 3), (1, 2, 3), np.uint8)
    answers = onnx_file.answers(file, image=image)
    scores = np.array(pixel) / 25.5
    assert answers["probabilities"][0] == pytest.approx(np.exp(scores) / np.exp(scores).sum(), abs=1e-3)
    assert ("logits" in answers) == (model.graph.node[-1].op_type != "Softmax")
    assert onnx_file.metadata(file)["batched"] == json.dumps(batched)
    if not batched:
        with server(tmp_path / "models", provider="cpu") as running, Client(running.address) as client:
            assert client.classify(encoded(np.zeros((9, 9, 3), np.uint8)), model="theirs").labels[0].name == "red"


def test_without_preprocessing_a_network_stays_as_it_is(labels: Path, tmp_path: Path) -> None:
    result = imported(tmp_path, in_text(), "--labels", labels)
    assert "will not accept pictures: it is unknown how pixels become its input: add --preprocessing (" in result.stdout
    assert onnx_file.signature(published(tmp_path))[0] == {"image": ("FLOAT", ["batch", 3, SIZE, SIZE])}


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        (in_text(), ("--scores", "probabilities"), r"^pictures: .*not probabilities .* Add --scores logits"),
        (in_text(last="logits = Softmax(scores)"), ("--scores", "logits"), "are already probabilities"),
        (in_text(), ("--preprocessing", "size=9x9"), "size=9x9 does not .*, which needs --preprocessing size=24x24"),
        (in_text(), ("--preprocessing", "scale=255 scale=3"), "--preprocessing names scale more than once"),
        (in_text(), ("--preprocessing", "mean=0.5 std=0.5"), "add scale=255 to --preprocessing if the network learned"),
        (in_text(), ("--preprocessing", "mean=1,2"), r"'mean=1,2' is not understood.* For example: --preprocessing"),
        (in_text(), ("--preprocessing", "crop=5"), "'crop=5' is not understood: its parts are size, fit"),
        (in_text(), ("--preprocessing", "std=0"), "'std=0' is not understood: std is one number above 0, or three"),
        (in_text(), ("--preprocessing", "fit=garment scale=255"), "fit garment is for grey pictures"),
        (in_text("float[a, b, c, d]"), ("--preprocessing", "scale=255"), "state its size with --preprocessing size="),
        (in_text("float[a, 3, 24, d]"), ("--preprocessing", "scale=255"), "state its size with --preprocessing size="),
        (in_text("uint8[batch, 3, 24, 24]", first=CAST), (), "takes pixels as they are: leave scale, mean and std out"),
        (onnx_models.two_inputs(), (), r"the network's inputs \(a .*\) are not a single picture"),
        (in_text("float[batch, 4, 24, 24]"), (), "are not a single picture"),
        (in_text("double[batch, 3, 24, 24]", first=CAST), (), "are not a single picture"),
        (in_text(answered="float[batch, 4]"), (), "none has one score for each of 3 labels: --labels must name"),
        (
            in_text("float[4, 3, 24, 24]", "float[4, 3]"),
            (), "takes exactly 4 pictures at a time. Export the network with a free first",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    model: onnx.ModelProto, more: tuple[str, ...], message: str, labels: Path, tmp_path: Path
) -> None:
    stated = () if "--preprocessing" in more else ("--preprocessing", STEPS)
    reason = refusal(*importing(tmp_path, model, "--labels", labels, *stated, *more), unchanged=tmp_path)
    assert re.search(message, reason), reason


def test_a_version_that_is_worse_on_the_same_pictures_is_refused(labels: Path, tmp_path: Path) -> None:
    """If the served version has no accuracy on these pictures yet, the command measures it."""
    data = ("--data", f"folder:{colour_networks.pictures(tmp_path / 'photos')}")
    stated = ("--labels", labels, "--preprocessing", STEPS)
    wrong = ("--preprocessing", f"{STEPS} order=bgr")
    imported(tmp_path, in_text(), *stated)
    worse = refusal(*importing(tmp_path, in_text(), *stated, *wrong, *data))
    assert re.search(r"^predecessor: .* 33\.33%, and version 1, which is served now, has 100\.0.*worse", worse)
    imported(tmp_path, in_text(), *stated, *data)
    assert "which is served now, has 100.00%" in refusal(*importing(tmp_path, in_text(), *stated, *wrong, *data))
    unmeasured = refusal(*importing(tmp_path, in_text(), *stated))
    assert re.search(
        r"version 2, which is served now, has test accuracy 100\.00%, so nothing shows .* Measure both", unmeasured
    )
    result = imported(tmp_path, in_text(), *stated, *wrong, *data, "--even-if-worse")
    assert "  predecessor  WORSE, but published: test accuracy 33.33%" in result.stdout
    fit = importing(tmp_path, in_text(), *stated, *data, "--preprocessing", STEPS.replace("stretch", "pad"))
    assert "has the fit stretch for pictures of another size, but the new version has the fit pad, so " in refusal(*fit)
    labels.write_text("\n".join(sorted(COLOURS)))
    for command in (importing(tmp_path, in_text(), *stated), importing(tmp_path, in_text(), *stated, *wrong, *data)):
        assert refusal(*command).startswith("contract: version 3 of theirs, which is served now, has the")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("folder:photos", "has the classes pink, which are not among the model's labels red; green; blue"),
        ("idx:photos", "name folder:PICTURES, with a folder for each label, or csv:FILE.csv"),
        ("photos", "name folder:PICTURES"),
    ],
)
def test_pictures_that_do_not_fit_the_labels_are_refused(
    data: str, message: str, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    colour_networks.pictures(tmp_path / "photos", 1)
    (tmp_path / "photos/red").rename(tmp_path / "photos/pink")
    stated = ("--labels", labels, "--preprocessing", STEPS, "--data", data)
    assert message in refusal(*importing(tmp_path, in_text(), *stated), unchanged=tmp_path)


def test_labels_may_repeat_and_follow_a_byte_order_mark(labels: Path, tmp_path: Path) -> None:
    labels.write_bytes(b"\xef\xbb\xbfheron\r\ncrane\r\ncrane\r\n")
    result = imported(tmp_path, in_text(), "--labels", labels, "--preprocessing", STEPS)
    assert json.loads(onnx_file.metadata(published(tmp_path))["labels"]) == ["heron", "crane (1)", "crane (2)"]
    assert f"  note         {labels} repeats crane, so the index was appended to each" in result.stdout


@pytest.mark.parametrize("stated", [(), ("--preprocessing", "fit=crop")])
def test_a_name_that_is_not_utf_8_is_refused(stated: tuple[str, ...], tmp_path: Path) -> None:
    damaged = onnx_models.classifier().SerializeToString().replace(b"image", b"im\xffge")
    assert "is not UTF-8" in refusal(*importing(tmp_path, damaged, *stated), unchanged=tmp_path)
