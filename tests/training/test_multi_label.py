"""Training of multi-label networks with the command, on small files like those of VOC 2007 and on outfits."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from PIL import Image

from hangtag.training.data import outfits, voc
from hangtag.training.errors import DivergedError
from tests.kit import voc_files
from tests.kit.command import contents, invoke, refusal
from tests.kit.once import once
from tests.kit.voc_files import BARS, IMAGES, annotation
from tests.training.small_runs import SOURCES, config, learn, read, train

pytestmark = pytest.mark.slow

MODELS = ("cnn_rnn", "sigmoids", "softmax_ranking", "cnn_embedding")


def on_bars(model: str, folder: Path) -> Path:
    data = voc_files.write_bars(folder / "data", 16)
    train(model, folder / "run", "--data", "voc2007", "--data-dir", data, limit=16, epochs=70)
    return folder


@pytest.mark.parametrize("model", MODELS)
def test_a_network_learns_label_sets_and_its_summary_has_their_figures(
    model: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    def make(folder: Path) -> Path:
        return on_bars(model, folder)

    folder = once(tmp_path_factory, f"bars-{model}", make, sources=[*SOURCES, "tests/kit/voc_files.py"])
    metrics, settings = read(folder / "run"), read(folder / "run", "config.json")
    rows, summary = metrics["epochs"], metrics["summary"]
    assert (settings["dataset"], settings["recipe"]["name"]) == ("voc2007", "multi-label")
    assert summary["validation"]["exact_match"] > 0.9
    assert summary["test"]["o_f1"] > 0.9
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert summary["validation"]["o_f1"] == pytest.approx(summary["peak_validation_o_f1"])
    assert summary["peak_validation_o_f1"] == max(row["validation_o_f1"] for row in rows)
    assert summary["labels"] == list(voc.LABELS)
    assert summary["label_order"] == [*BARS, *(label for label in voc.LABELS if label not in BARS)]  # equally frequent
    assert ("thresholds" in summary) == (model != "cnn_rnn")  # cnn_rnn answers with paths and needs no threshold

    # Batch normalisation is folded into the saved weights. `evaluate` loads these weights, and must measure the same
    # metrics.
    written = tmp_path / "evaluation.json"
    invoke("evaluate", folder / "run", "--data-dir", folder / "data", "--json", written)
    assert json.loads(written.read_text())["figures"] == pytest.approx(summary["test"])


@pytest.mark.parametrize("model", ["cnn_rnn", "softmax_ranking"])
def test_outputs_that_are_not_finite_end_the_run(model: str, tmp_path: Path) -> None:
    data = voc.load(voc_files.write_bars(tmp_path / "data", 16))
    diverging = replace(config(model, learning_rate=1e30), dataset="voc2007")
    with pytest.raises(DivergedError):
        learn(diverging, data, tmp_path / "run")
    assert contents(tmp_path / "run").keys() == {"config.json"}


# Outfits.


def test_the_command_trains_on_outfits_and_reports_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cast(dict[str, int], outfits.SIZES), "test", 64)
    result = train("cnn_embedding", tmp_path)
    assert f"{tmp_path.name}: data from" in result.stderr
    shares = r"validation O-F1 [\d.]+% of 64 images, validation exact match [\d.]+% of 64 images, test O-F1"
    assert re.search(rf"best epoch 1: {shares}", result.stderr)
    settings = read(tmp_path, "config.json")
    assert (settings["dataset"], settings["recipe"]["name"]) == ("outfits", "multi-label")


# VOC 2007.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return voc_files.write(tmp_path)


def in_voc(folder: Path, *parts: str) -> Path:
    return folder.joinpath("VOCdevkit", "VOC2007", *parts)


def refused(folder: Path) -> str:
    return refusal("train", "sigmoids", "--data", "voc2007", "--data-dir", folder, "--out", folder / "run")


def test_every_split_has_its_images_in_grey_squares_and_their_classes(folder: Path) -> None:
    data = voc.load(folder)
    named = {
        image_set: [{data.labels[label] for label in np.flatnonzero(row)} for row in split.classes]
        for image_set, split in (("train", data.train), ("val", data.validation), ("test", data.test))
    }
    assert named == {image_set: [set(objects) for objects in images.values()] for image_set, images in IMAGES.items()}
    assert (len(data.labels), data.labels) == (20, tuple(sorted(data.labels)))
    assert (data.name, data.source) == ("voc2007", str(folder))
    image = data.train.images[0]  # the image shows the whole picture
    assert (image.shape, image.dtype) == ((64, 64), np.uint8)
    assert image[:, :28] == pytest.approx(0.299 * 100, abs=6)  # the weight of red in the brightness
    assert image[:, 36:] == pytest.approx(255, abs=6)


def test_other_labels_or_other_pixels_change_the_digest(folder: Path) -> None:
    before = voc.load(folder).digest
    assert voc.load(folder).digest == before
    in_voc(folder, "Annotations", "000001.xml").write_text(annotation("000001", ["person"]))
    relabelled = voc.load(folder).digest
    Image.new("RGB", (50, 37)).save(in_voc(folder, "JPEGImages", "000002.jpg"))
    assert len({before, relabelled, voc.load(folder).digest}) == 3


@pytest.mark.parametrize("part", [("JPEGImages", "000007.jpg"), ("Annotations", "000007.xml")])
def test_a_missing_or_broken_file_is_named(folder: Path, part: tuple[str, str]) -> None:
    in_voc(folder, *part).write_bytes(b"neither")
    assert "000007.jpg or its annotation cannot be read" in refused(folder)
    in_voc(folder, *part).unlink()
    assert f"{part[1]} is missing" in refused(folder)


def test_an_annotation_that_cannot_be_used_is_named(folder: Path) -> None:
    for objects, complaint in ((["unicorn"], "shows unicorn"), ([], "has no object")):
        in_voc(folder, "Annotations", "000012.xml").write_text(annotation("000012", objects))
        assert f"000012.jpg {complaint}" in refused(folder)


def test_a_data_set_that_is_not_there_is_named(folder: Path) -> None:
    in_voc(folder, "ImageSets", "Main", "test.txt").unlink()  # as if one of the two archives were missing
    message = refused(folder)
    assert "lacks VOCdevkit/VOC2007/ImageSets/Main/test.txt" in message
    assert "--data-dir" in message


def test_a_failed_download_says_why_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The download cannot begin, because a file has the name of the cache's folder."""
    (tmp_path / "hangtag").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    message = refusal("train", "sigmoids", "--data", "voc2007", "--out", tmp_path / "run")
    assert re.search(r"could not be downloaded \(.*hangtag.*\).*--data-dir", message)
