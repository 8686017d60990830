"""The images that are prepared from a user's own pictures: their size, colours, digest and storage."""

import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hangtag.training.data import pictures, sources
from hangtag.training.data.dataset import Dataset
from hangtag.training.data.pictures import OwnPictures
from tests.kit import own_pictures
from tests.kit.command import invoke
from tests.training.data.shown import SPLITS, refused, show


def test_pictures_keep_their_size_and_colours_where_all_have_them(tmp_path: Path) -> None:
    same = f"folder:{own_pictures.folder(tmp_path / 'same', {'cats': 3, 'dogs': 3}, (12, 20))}"
    image = show(same)["image"]
    assert (image["height"], image["width"], image["channels"], image["fit"]) == (12, 20, 1, "stretch")
    pixels = sources.load(same).train.images / 255
    assert image["mean"] == [pytest.approx(pixels.mean(), abs=1e-4)]
    assert image["std"] == [pytest.approx(pixels.std(), abs=1e-4)]
    coloured = own_pictures.folder(tmp_path / "coloured", {"cats": 3, "dogs": 3}, (12, 20, 3))
    own_pictures.write(coloured / "cats/large.png", own_pictures.noise(99, (30, 20)))
    source = f"folder:{coloured}"
    image = show(source)["image"]
    assert (image["height"], image["width"], image["channels"]) == (64, 64, 3)
    assert len(image["mean"]) == len(image["std"]) == 3
    image = show(source, "--size", "8x6", "--grey", "--fit", "pad")["image"]
    assert (image["height"], image["width"], image["channels"], image["fit"]) == (8, 6, 1, "pad")
    for size in ("8", "0x8", "8x", "5000x8", "8x8x3", "-1x8"):
        assert f"--size {size}: write HEIGHTxWIDTH in pixels" in refused(source, f"--size={size}")
    assert "fit garment is for grey pictures" in refused(source, "--fit", "garment", "--colour")
    assert "--colour: use this only with your own pictures, not with fashion-mnist." in refused(
        "fashion-mnist", "--colour"
    )


def test_the_digest_counts_names_contents_and_splits_but_not_the_folder(tmp_path: Path) -> None:
    photos = own_pictures.folder(tmp_path / "photos", {"cats": 9, "dogs": 9})
    digest = show(f"folder:{photos}")["digest"]
    copy = Path(shutil.copytree(photos, tmp_path / "copy"))
    assert show(f"folder:{copy}")["digest"] == digest
    assert show(f"folder:{copy}", "--size", "4x4")["digest"] == digest  # the size does not change the digest
    others = {digest, show(f"folder:{copy}", "--split-seed", 1)["digest"]}
    (copy / "cats/000.png").rename(copy / "cats/renamed.png")
    others.add(show(f"folder:{copy}")["digest"])
    own_pictures.write(copy / "cats/renamed.png", own_pictures.noise(999))
    others.add(show(f"folder:{copy}")["digest"])
    (copy / "cats").rename(copy / "lions")
    others.add(show(f"folder:{copy}")["digest"])
    assert len(others) == 5


def test_pictures_that_are_mapped_are_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    photos = own_pictures.folder(tmp_path / "photos", {"cats": 9, "dogs": 9}, (9, 8, 3))
    own = OwnPictures(size=(6, 5), fit="crop")

    def load(memory_bytes: int) -> Dataset:
        return pictures.load(f"folder:{photos}", own, memory_bytes=memory_bytes)

    in_memory = load(1 << 20)
    assert not (tmp_path / "cache").exists()
    mapped = load(0)
    assert list((tmp_path / "cache/hangtag").iterdir()) == []  # no file is left when the command ends
    for split in SPLITS:
        images = getattr(mapped, split).images
        assert isinstance(images, np.memmap)
        np.testing.assert_array_equal(images, getattr(in_memory, split).images)
    assert mapped.image == in_memory.image


def test_the_contact_sheet_has_a_row_for_each_class(tmp_path: Path) -> None:
    photos = own_pictures.folder(tmp_path / "photos", {"cats": 9, "dogs": 9})
    other = invoke("data", "show", f"folder:{photos}", "--sheet", tmp_path / "sheet.xyz", exit_code=2)
    assert "its name must end in .png" in other.stderr
    printed = invoke("data", "show", f"folder:{photos}", "--sheet", tmp_path / "sheet.png").stdout
    assert [line.split() for line in printed.splitlines()[1:4]] == [
        ["cats", "7", "1", "1"], ["dogs", "7", "1", "1"], ["all", "2", "14", "2", "2"]
    ]  # fmt: skip
    size = sum(file.stat().st_size for file in photos.rglob("*.*"))
    assert f"files: {size / 1e3:.1f} kB, 18 of 9x8 pixels\nimages: 9x8 pixels, grey, stretch" in printed
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("L"))
    pictures = sheet[:, 45:]  # the names are in the first 45 columns
    upper, lower = pictures[: len(sheet) // 2], pictures[len(sheet) // 2 :]
    assert upper[upper < 255].mean() < 80 < lower[lower < 255].mean()  # dogs are brighter
    drawn = {}
    for label in ("G\u00e4nse", "G\u00e9nse", "\u72ac"):  # the font has no glyph for the last label and draws a box
        photos = own_pictures.folder(tmp_path / f"of {label}", {label: 9, "dogs": 9})
        invoke("data", "show", f"folder:{photos}", "--sheet", tmp_path / "sheet.png")
        drawn[label] = Image.open(tmp_path / "sheet.png").crop((0, 0, 36, 60)).tobytes()
    assert len(set(drawn.values())) == 3


def test_a_contact_sheet_needs_little_memory_for_large_pictures(tmp_path: Path) -> None:
    photos = own_pictures.folder(tmp_path / "photos", {"cats": 10, "dogs": 10}, (600, 500, 3))
    tracemalloc.start()
    invoke("data", "show", f"folder:{photos}", "--size", "600x500", "--sheet", tmp_path / "sheet.png")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6
