"""``hangtag evaluate`` and ``hangtag route tune`` with ``--samples``: a user's own pictures, in colour."""

import hashlib
import json
import re
import shutil
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hangtag.training.data.pictures import OwnPictures
from tests.kit import onnx_models, own_pictures
from tests.kit.command import invoke, refusal
from tests.kit.onnx_file import with_metadata
from tests.kit.server import server

COLOURS = ("red", "green", "blue")
SIZE = (24, 36)


def picture(colour: int, brightness: int) -> own_pictures.Pixels:
    """A picture in which one colour is brighter than the others by ``brightness``."""
    pixels = np.full((*SIZE, 3), 60, np.uint8)
    pixels[..., colour] += brightness
    return pixels


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models and the same pictures in four forms: a folder, a CSV file and two .npz files."""
    root = tmp_path_factory.mktemp("samples")
    for name in ("fast", "accurate"):
        onnx_models.publish(root / "models", name, onnx_models.colours())
    labels = [place % 3 for place in range(12)]
    images = [picture(label, 50 + 5 * place) for place, label in enumerate(labels)]
    images[0] = picture(1, 90)  # a wrong label
    names = [COLOURS[label] for label in labels]
    files = [
        own_pictures.write(root / f"photos/{name}/{place:02}.png", pixels)
        for place, (name, pixels) in enumerate(zip(names, images, strict=True))
    ]
    rows = zip([str(file.relative_to(root)) for file in files], names, strict=True)
    own_pictures.csv(root / "rows.csv", rows)
    np.savez(root / "names.npz", images=images, labels=names)
    np.savez(root / "numbers.npz", images=images, labels=labels)
    return root


def evaluated(*arguments: object) -> Any:
    return json.loads(invoke("evaluate", *arguments, "--json").stdout)


def test_a_file_and_its_server_have_the_same_figures_for_the_same_pictures(samples: Path) -> None:
    sources = (f"folder:{samples}/photos", f"csv:{samples}/rows.csv", samples / "names.npz", samples / "numbers.npz")
    figures = [evaluated(samples / "models/fast", "--samples", source) for source in sources]
    with server(samples / "models", provider="cpu") as running:
        served = evaluated("fast", "--server", running.address, "--samples", sources[0])
    assert served["subject"]["details"]["version"] == "1"
    shutil.copytree(samples / "photos", samples / "split/test")
    own_pictures.folder(samples / "split/train", dict.fromkeys(COLOURS, 2))  # the training pictures are not evaluated
    split = ("evaluate", samples / "models/fast", "--samples", f"folder:{samples}/split")
    assert "Only the 12 pictures of the split 'test' are used.\n" in invoke(*split).stderr
    figures.append(evaluated(*split[1:]))
    for each in (*figures, served):
        assert (each["data"]["images"], each["accuracy"]) == (12, pytest.approx(11 / 12))
        assert each["confusion"] == figures[0]["confusion"]


def test_they_are_read_with_the_checks_of_training(samples: Path, tmp_path: Path) -> None:
    photos = shutil.copytree(samples / "photos", tmp_path / "photos")
    for name, content in (("empty", b""), ("cut off", (photos / "red/00.png").read_bytes()[:-30])):
        (photos / f"green/{name}.png").write_bytes(content)
    shutil.copy(photos / "red/00.png", photos / "red/again.png")
    command = ("evaluate", samples / "models/fast", "--samples", f"folder:{photos}")
    result = invoke(*command)
    assert "on 12 images of" in result.stdout
    unreadable, twice = result.stderr.splitlines()
    assert unreadable.startswith("Left out 2 pictures that cannot be read: green/cut off.png (it cannot be ")
    assert twice == "Left out 1 copy of another picture in the source: red/again.png."
    shutil.copy(photos / "red/00.png", photos / "blue")
    assert "1 picture is in more than one class, so" in refusal(*command)


def test_a_published_and_a_served_model_find_the_pictures_of_their_run(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's file contains the path of the picture folder, relative to the current folder."""
    labels = [f"sign {place} {name}" for place, name in enumerate(COLOURS)]
    for name, label in zip(COLOURS, labels, strict=True):
        shutil.copytree(samples / "photos" / name, tmp_path / "here/photos" / label)
    monkeypatch.chdir(tmp_path / "here")
    own = OwnPictures()
    digest, image = (
        json.loads(invoke("data", "show", "folder:photos", "--json").stdout)[key] for key in ("digest", "image")
    )
    config = {"dataset": "folder:photos", "data_digest": digest, "image": image, "pictures": asdict(own)}
    training = json.dumps({"config": config, "metrics": {}})
    described = {"labels": json.dumps(labels), "training": training, "data_digest": digest}
    onnx_models.publish(tmp_path / "models", "signs", with_metadata(onnx_models.colours(), **described))
    others = with_metadata(onnx_models.colours(), labels=described["labels"])
    onnx_models.publish(tmp_path / "models", "others", others)
    rule = 'accept = {output = "probabilities", at_least = 0.9}'
    onnx_models.publish_route(tmp_path / "models", "both", f'cascade = ["signs", "signs@1"]\n{rule}')
    onnx_models.publish_route(tmp_path / "models", "differing", f'cascade = ["signs", "others"]\n{rule}')
    with server(tmp_path / "models", provider="cpu") as running:
        served = ("--server", running.address)
        ways: tuple[tuple[object, ...], ...] = ((tmp_path / "models/signs",), ("signs", *served), ("both", *served))
        assert "does not say on which pictures" in refusal("evaluate", "differing", *served)
        for way in ways:
            assert (evaluated(*way)["data"]["images"], evaluated(*way)["data"]["split"]) == (3, "test")
        table = invoke("evaluate", *ways[0]).stdout  # columns have numbers, because the labels begin with the same word
        assert re.search(r"^ +1 +2 +3$", table, re.MULTILINE)
        assert re.search("^2 sign 1 green", table, re.MULTILINE)
        monkeypatch.chdir(tmp_path)
        for way in ways:
            message = refusal("evaluate", *way)
            assert (
                "folder:photos, are not in the current folder, and no absolute path is recorded. Give their folder"
                in message
            )
            assert evaluated(*way, "--data-dir", "here/photos")["data"]["images"] == 3


def test_samples_that_a_model_was_trained_on_are_counted(samples: Path, tmp_path: Path) -> None:
    """The run's list of pictures identifies a picture by its pixels, whatever the path of the picture's file."""
    config = {"model": "own", "seed": 0, "recipe": {"epochs": 1}, "dataset": "folder:gone", "data_digest": "0"}
    described = {"training": json.dumps({"config": config})}
    file = onnx_models.publish(tmp_path / "models", "signs", with_metadata(onnx_models.colours(), **described))
    run = tmp_path / "runs/one"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(config))
    with np.load(samples / "names.npz") as arrays:
        seen = [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in arrays["images"]]
    rows = [("train", "red", seen[3], "old/3.png"), ("train", "green", seen[4], "4.png"), ("test", "red", seen[6], "6")]
    own_pictures.csv(run / "pictures.csv", rows, "split,label,pixels,path")
    with server(tmp_path / "models", provider="cpu") as running:
        served = ("evaluate", "signs", "--server", running.address, "--samples", samples / "names.npz")
        assert (
            "2 of these 12 pictures are training pictures of signs ("
            in invoke(*served, "--runs", tmp_path / "runs").stderr
        )
    for source in (samples / "names.npz", f"folder:{samples}/photos"):
        command = ("evaluate", file, "--samples", source)
        printed = invoke(*command, "--runs", tmp_path / "runs").stderr
        assert "2 of these 12 pictures are training pictures of " in printed
        assert "old/3.png" in printed
        assert "training pictures" not in invoke(*command, "--runs", tmp_path / "elsewhere").stderr
    own_pictures.csv(run / "pictures.csv", [("train", "red", each, each) for each in seen], "split,label,pixels,path")
    divided = ("evaluate", file, "--data", f"folder:{samples}/photos", "--runs", tmp_path / "runs")
    assert (
        "3 of these 3 pictures are training pictures of " in invoke(*divided).stderr
    )  # the folder is split differently
    assert evaluated(*divided[1:])["accuracy"] == 1  # labels are matched by name, not by their order


@pytest.mark.parametrize(("split", "kind"), [("train", "training"), ("test", "test")])
def test_no_choice_is_made_by_pictures_that_trained_or_that_test_a_model(
    samples: Path, tmp_path: Path, split: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"model": "own", "seed": 0, "recipe": {"epochs": 1}, "dataset": "folder:gone", "data_digest": "0"}
    described = {"training": json.dumps({"config": config})}
    onnx_models.publish(tmp_path / "models", "signs", with_metadata(onnx_models.colours(), **described))
    run = tmp_path / "runs/one"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(config))
    with np.load(samples / "names.npz") as arrays:
        used = hashlib.sha256(arrays["images"][3].tobytes()).hexdigest()[:16]
    own_pictures.csv(run / "pictures.csv", [(split, "red", used, "old/3.png")], "split,label,pixels,path")
    monkeypatch.chdir(tmp_path)
    command = ("choose", "signs", "--models", "models", "--try", 0, "--data", samples / "names.npz")
    expected = f"1 of these 12 pictures are {kind} pictures of models/signs/1/model.onnx (old/3.png)"
    assert expected in refusal(*command)
    (run / "pictures.csv").unlink()
    assert "signs" in invoke(*command).stdout


def test_of_many_labels_the_worst_are_drawn_with_what_they_are_taken_for(tmp_path: Path) -> None:
    model = onnx_models.from_text(
        """(uint8[batch, 1, 50] image) => (float[batch, 50] probabilities) <int64[2] rows = {-1, 50}> {
            pixels = Cast <to = 1> (image) probabilities = Reshape(pixels, rows)
        }"""
    )
    described = {"labels": json.dumps([*map(str, range(50))]), "image": '{"height": 1, "width": 50}'}
    file = onnx_models.publish(tmp_path / "models", "many", with_metadata(model, **described))
    answers = np.minimum(np.arange(50), 9)  # for images of the labels 10 to 49, the model predicts 9
    np.savez(tmp_path / "many.npz", images=np.eye(50, dtype=np.uint8)[answers, None], labels=range(50))
    invoke("evaluate", file, "--samples", tmp_path / "many.npz", "--pictures", tmp_path)
    with Image.open(tmp_path / "confusion.png") as drawn:
        assert drawn.size == (round(120 * 7.4), round(120 * (0.45 * 40 + 1.5)))
        rows = np.asarray(drawn.convert("RGB")).reshape(drawn.height, -1, 3)
    dark = (rows == (127, 0, 0)).all(axis=2).any(axis=1)  # the darkest colour of the heat map
    assert dark.sum() > 0.8 * drawn.height


def test_models_of_several_divisions_are_tuned_on_samples_alone(samples: Path, tmp_path: Path) -> None:
    for name in ("fast", "accurate"):
        config = {"dataset": "folder:photos", "data_digest": name}
        learned = with_metadata(onnx_models.colours(), training=json.dumps({"config": config}))
        onnx_models.publish(tmp_path, name, learned)
    tuned = ("route", "tune", "fast", "accurate", "--models", tmp_path)
    assert "fast, accurate were not all trained on the same pictures with the same split" in refusal(*tuned)
    assert "12 images of --samples" in invoke(*tuned, "--samples", samples / "names.npz", exit_code=None).output


@pytest.mark.parametrize(
    "content", [b"", b"no arrays", b"PK\3\4 cut off", b"\x93NUMPY"], ids=["empty", "text", "cut off", "one array"]
)
def test_files_of_samples_that_cannot_be_read_are_named(samples: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "wrong.npz").write_bytes(content)
    for name, why in (("wrong", "it is not a file of numpy.savez"), ("gone", "no such file or directory")):
        message = refusal("evaluate", samples / "models/fast", "--samples", tmp_path / f"{name}.npz")
        assert message.startswith(f"{tmp_path}/{name}.npz cannot be read ({why}). Save the arrays 'images'")


@pytest.mark.parametrize("name", ["images", "images.npy"])
def test_archives_with_other_members_or_a_damaged_member_are_refused(samples: Path, tmp_path: Path, name: str) -> None:
    wrong = tmp_path / "wrong.npz"
    with zipfile.ZipFile(wrong, "w") as archive:
        archive.writestr(name, b"no array")
        archive.writestr("labels.npy", b"no array")
    assert "has images |S8 [] and labels []" in refusal("evaluate", samples / "models/fast", "--samples", wrong)
    with zipfile.ZipFile(wrong, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"no array" * 9)
    content = bytearray(wrong.read_bytes())
    content[30 + len(name)] = 0xFF  # the compressed data begins with a type of block that does not exist
    wrong.write_bytes(content)
    assert "it is not a file of numpy.savez" in refusal("evaluate", samples / "models/fast", "--samples", wrong)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (["red", "mauve"], "has the classes mauve, which"),
        ([0, 3], "from 0 to 3, but "),
        ([0, -1], "from -1 to 0, but "),
        ([0.0, 1.0], "has labels float64 from 0.0 to 1.0, but "),
        ([b"red", b"blue"], "has labels |S4, but "),
        ([], "images uint8 [n, 24, 36, 3] and labels [n], with at least one picture. Picture files of other sizes"),
    ],
)
def test_labels_that_a_model_does_not_have_are_refused(
    samples: Path, tmp_path: Path, labels: list[Any], reason: str
) -> None:
    images = np.zeros((len(labels), *SIZE, 3), np.uint8)
    np.savez(tmp_path / "wrong.npz", images=images, labels=labels)
    assert reason in refusal("evaluate", samples / "models/fast", "--samples", tmp_path / "wrong.npz")


@pytest.mark.parametrize("image", [None, "no JSON", '{"height": 24}', '{"height": 24, "width": 36, "fit": "squeeze"}'])
@pytest.mark.parametrize("option", ["--samples", "--data"])
def test_a_classifier_that_does_not_say_how_pictures_fit_is_refused(
    samples: Path, tmp_path: Path, option: str, image: str | None
) -> None:
    file = onnx_models.publish(tmp_path, "bare", with_metadata(onnx_models.colours(), image=image))
    message = refusal("evaluate", file, option, f"folder:{samples}/photos")
    assert ("hangtag models fit NAME --fit" if image is None else "hangtag.image") in message
