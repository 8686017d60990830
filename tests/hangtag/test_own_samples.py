"""``hangtag evaluate`` and ``hangtag route tune`` with ``--samples``: pictures of the user's own, in colour."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hangtag.training.data.pictures import OwnPictures
from tests.kit import onnx_models, own_pictures
from tests.kit.command import invoke, refusal
from tests.kit.server import server

COLOURS = ("red", "green", "blue")
SIZE = (24, 36)


def picture(colour: int, brightness: int) -> own_pictures.Pixels:
    """One colour alone, brighter than the others by this."""
    pixels = np.full((*SIZE, 3), 60, np.uint8)
    pixels[..., colour] += brightness
    return pixels


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository, and the same pictures as a folder, a CSV file, and arrays with names or numbers."""
    root = tmp_path_factory.mktemp("samples")
    for name in ("fast", "accurate"):
        onnx_models.publish(root / "models", name, onnx_models.colours())
    labels = [place % 3 for place in range(12)]
    images = [picture(label, 50 + 5 * place) for place, label in enumerate(labels)]
    images[0] = picture(1, 90)  # a mistake
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
    return json.loads(invoke("evaluate", *arguments, "--json", "-").stdout)


def test_a_file_and_its_server_have_the_same_figures_for_the_same_pictures(samples: Path) -> None:
    sources = (f"folder:{samples}/photos", f"csv:{samples}/rows.csv", samples / "names.npz", samples / "numbers.npz")
    figures = [evaluated(samples / "models/fast", "--samples", source) for source in sources]
    with server(samples / "models", provider="cpu") as running:
        served = evaluated("fast", "--server", running.address, "--samples", sources[0])
    assert served["subject"]["details"]["version"] == "1"
    shutil.copytree(samples / "photos", samples / "split/test")
    own_pictures.folder(samples / "split/train", dict.fromkeys(COLOURS, 2))  # of which no picture is taken
    figures.append(evaluated(samples / "models/fast", "--samples", f"folder:{samples}/split"))
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
    assert unreadable.startswith("Left out 2 pictures that cannot be read: green/cut off.png (image file is truncated")
    assert twice == "Left out 1 picture that is there twice: red/again.png."
    shutil.copy(photos / "red/00.png", photos / "blue")
    assert "1 picture is in more than one class, so that" in refusal(*command)


def test_a_published_and_a_served_model_find_the_pictures_of_their_run(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file says, from the current folder on; else a sentence has the options that name others."""
    labels = [f"{place} {name}" for place, name in enumerate(COLOURS)]
    for name, label in zip(COLOURS, labels, strict=True):
        shutil.copytree(samples / "photos" / name, tmp_path / "here/photos" / label)
    monkeypatch.chdir(tmp_path / "here")
    own = OwnPictures()
    digest, image = (
        json.loads(invoke("data", "show", "folder:photos", "--json").stdout)[key] for key in ("digest", "image")
    )
    config = {"dataset": "folder:photos", "data_digest": digest, "image": image, "pictures": asdict(own)}
    model = onnx_models.colours()
    kept = {entry.key: entry.value for entry in model.metadata_props}
    described = {
        "hangtag.labels": json.dumps(labels),
        "hangtag.training": json.dumps({"config": config, "metrics": {}}),
    }
    onnx.helper.set_model_props(model, kept | described)
    onnx_models.publish(tmp_path / "models", "signs", model)
    with server(tmp_path / "models", provider="cpu") as running:
        ways: tuple[tuple[object, ...], ...] = ((tmp_path / "models/signs",), ("signs", "--server", running.address))
        for way in ways:
            assert (evaluated(*way)["data"]["images"], evaluated(*way)["data"]["split"]) == (3, "test")
        monkeypatch.chdir(tmp_path)
        for way in ways:
            message = refusal("evaluate", *way)
            assert (
                "folder:photos, are not in the current folder, and their place is not recorded. Name it with --data-dir"
                in message
            )
            assert message.endswith("that it was not trained on, with --samples.")
            assert evaluated(*way, "--data-dir", "here/photos")["data"]["images"] == 3


def test_models_of_several_divisions_are_tuned_on_samples_alone(samples: Path, tmp_path: Path) -> None:
    for name in ("fast", "accurate"):
        model = onnx_models.colours()
        config = {"dataset": "folder:photos", "data_digest": name}
        model.metadata_props.add(key="hangtag.training", value=json.dumps({"config": config}))
        onnx_models.publish(tmp_path, name, model)
    tuned = ("route", "tune", "fast", "accurate", "--models", tmp_path, "--reports", tmp_path)
    assert "accurate learned from other pictures than fast" in refusal(*tuned)
    invoke(*tuned, "--samples", samples / "names.npz")


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (["red", "mauve"], "has the classes mauve, which"),
        ([0, 3], "from 0 to 3; "),
        ([0, -1], "from -1 to 0; "),
        ([0.0, 1.0], "holds labels float64 from 0.0 to 1.0; "),
        ([], "n is at least 1"),
    ],
)
def test_labels_that_a_model_does_not_have_are_refused(
    samples: Path, tmp_path: Path, labels: list[Any], reason: str
) -> None:
    images = np.zeros((len(labels), *SIZE, 3), np.uint8)
    np.savez(tmp_path / "wrong.npz", images=images, labels=labels)
    assert reason in refusal("evaluate", samples / "models/fast", "--samples", tmp_path / "wrong.npz")


def test_a_classifier_that_does_not_say_how_pictures_fit_names_the_command(samples: Path, tmp_path: Path) -> None:
    model = onnx_models.colours()
    kept = [entry for entry in model.metadata_props if entry.key != "hangtag.image"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    file = onnx_models.publish(tmp_path, "bare", model)
    assert "hangtag models fit NAME --fit" in refusal("evaluate", file, "--samples", f"folder:{samples}/photos")
