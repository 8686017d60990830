from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hangtag.training.data import datasets, voc
from hangtag.training.errors import DataCorruptError, DataNotFoundError
from tests.training.data import voc_files
from tests.training.data.voc_files import IMAGES, annotation


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return voc_files.write(tmp_path)


def in_voc(folder: Path, *parts: str) -> Path:
    return folder.joinpath("VOCdevkit", "VOC2007", *parts)


def test_every_split_has_its_images_and_their_classes(folder: Path) -> None:
    data = voc.load(folder)
    named = {
        image_set: [{data.labels[label] for label in np.flatnonzero(row)} for row in split.labels]
        for image_set, split in (("train", data.train), ("val", data.validation), ("test", data.test))
    }
    assert named == {image_set: [set(objects) for objects in images.values()] for image_set, images in IMAGES.items()}
    assert (len(data.labels), data.labels) == (20, tuple(sorted(data.labels)))
    assert (data.name, data.source) == ("voc2007", str(folder))


def test_images_become_grey_squares_with_nothing_cut_off(folder: Path) -> None:
    image = voc.load(folder).train.images[0]
    assert (image.shape, image.dtype) == ((64, 64), np.uint8)
    assert image[:, :28] == pytest.approx(0.299 * 100, abs=6)  # the weight of red in what is seen as bright
    assert image[:, 36:] == pytest.approx(255, abs=6)


def test_other_labels_or_other_pixels_change_the_digest(folder: Path) -> None:
    before = voc.load(folder).digest
    assert voc.load(folder).digest == before
    in_voc(folder, "Annotations", "000001.xml").write_text(annotation("000001", ["person"]))
    relabelled = voc.load(folder).digest
    Image.new("RGB", (50, 37)).save(in_voc(folder, "JPEGImages", "000002.jpg"))
    assert len({before, relabelled, voc.load(folder).digest}) == 3


def test_voc_is_loaded_by_its_name(folder: Path) -> None:
    assert datasets.load("voc2007", folder).digest == voc.load(folder).digest


def test_a_folder_without_it_is_named_and_nothing_is_downloaded(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"lacks VOCdevkit/VOC2007/ImageSets/Main/train\.txt.*--data-dir"):
        voc.load(tmp_path)


def test_if_one_of_the_two_archives_is_missing_the_error_names_its_split(folder: Path) -> None:
    in_voc(folder, "ImageSets", "Main", "test.txt").unlink()
    with pytest.raises(DataNotFoundError, match=r"Main/test\.txt"):
        voc.load(folder)


@pytest.mark.parametrize("part", [("JPEGImages", "000007.jpg"), ("Annotations", "000007.xml")])
def test_a_missing_file_is_named(folder: Path, part: tuple[str, str]) -> None:
    in_voc(folder, *part).unlink()
    with pytest.raises(DataNotFoundError, match=f"{part[1]} is missing"):
        voc.load(folder)


@pytest.mark.parametrize("part", [("JPEGImages", "000007.jpg"), ("Annotations", "000007.xml")])
def test_a_broken_file_is_named(folder: Path, part: tuple[str, str]) -> None:
    in_voc(folder, *part).write_bytes(b"neither")
    with pytest.raises(DataCorruptError, match=r"000007\.jpg or its annotation cannot be read"):
        voc.load(folder)


@pytest.mark.parametrize(("objects", "complaint"), [(["unicorn"], "shows unicorn"), ([], "has no object")])
def test_an_annotation_that_cannot_be_used_is_named(folder: Path, objects: list[str], complaint: str) -> None:
    in_voc(folder, "Annotations", "000012.xml").write_text(annotation("000012", objects))
    with pytest.raises(DataCorruptError, match=rf"000012\.jpg {complaint}"):
        voc.load(folder)


def test_a_failed_download_says_why_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache's place is taken by a file, so that the download cannot even begin."""
    (tmp_path / "hangtag").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataNotFoundError, match=r"could not be downloaded \(.*hangtag.*\).*--data-dir"):
        voc.load()
