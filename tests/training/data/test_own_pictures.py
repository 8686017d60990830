"""How a user's own pictures are read from folders or a CSV file, and split, left out or refused."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hangtag.training.data import sources
from tests.kit import own_pictures
from tests.training.data.shown import SPLITS, contents, refused, show

# Splits.


def test_each_class_has_its_share_of_every_split_and_no_picture_is_in_two(tmp_path: Path) -> None:
    photos = f"folder:{own_pictures.folder(tmp_path, {'cats': 40, 'dogs': 20, 'emus': 3})}"
    assert show(photos)["labels"] == {
        "cats": {"train": 32, "validation": 4, "test": 4},
        "dogs": {"train": 16, "validation": 2, "test": 2},
        "emus": {"train": 1, "validation": 1, "test": 1},
    }
    found = show(photos, "--validation-share", 0.25, "--test-share", 0.5)
    assert found["labels"]["cats"] == {"train": 10, "validation": 10, "test": 20}
    assert found["splits"] == {"train": 16, "validation": 16, "test": 31}
    splits = contents(photos)
    assert sum(splits.values(), Counter()).total() == len(sum(splits.values(), Counter())) == 63


def test_a_picture_stays_in_its_split_whatever_its_name_and_wherever_it_is_listed(tmp_path: Path) -> None:
    photos = own_pictures.folder(tmp_path / "photos", {"cats": 20, "dogs": 20})
    before = contents(f"folder:{photos}")
    other = Path(shutil.copytree(photos, tmp_path / "other"))
    for file in list(other.glob("*/*.png")):
        (file.parent / "deeper").mkdir(exist_ok=True)
        file.rename(file.parent / "deeper" / f"{99 - int(file.stem)}.PNG")
    assert contents(f"folder:{other}") == before
    (photos / "cats/again").symlink_to(photos)  # a loop of links
    assert contents(f"folder:{photos}") == before
    listed = own_pictures.csv(
        tmp_path / "labels.csv", [(str(file), file.parent.name) for file in sorted(photos.glob("*/*.png"))[::-1]]
    )
    assert contents(f"csv:{listed}") == before
    assert contents(f"folder:{photos}", split_seed=1) != before


def test_more_pictures_of_one_class_move_none_of_another(tmp_path: Path) -> None:
    photos = own_pictures.folder(tmp_path, {"cats": 20, "dogs": 20})
    before = contents(f"folder:{photos}")
    cats = {image.tobytes() for image in (own_pictures.noise(seed, brightness=127) for seed in range(20))}
    own_pictures.folder(photos / "dogs", {"more": 30}, first=500)
    after = contents(f"folder:{photos}")
    for split in SPLITS:
        assert before[split].keys() & cats == after[split].keys() & cats != set()


def test_splits_that_are_given_stay_and_only_what_lacks_is_taken_from_the_training_pictures(tmp_path: Path) -> None:
    given = {"train/cats": 20, "train/dogs": 20, "test/cats": 5, "test/dogs": 2}
    photos = own_pictures.folder(tmp_path, given)
    counts = show(f"folder:{photos}")["labels"]
    assert counts == {
        "cats": {"train": 18, "validation": 2, "test": 5},
        "dogs": {"train": 18, "validation": 2, "test": 2},
    }
    own_pictures.folder(photos, {"val/cats": 7, "val/dogs": 1}, first=500)
    counts = show(f"folder:{photos}")["labels"]
    assert counts == {
        "cats": {"train": 20, "validation": 7, "test": 5},
        "dogs": {"train": 20, "validation": 1, "test": 2},
    }
    rows = [
        (file.relative_to(tmp_path).as_posix(), file.parent.name, file.parents[1].name.upper())
        for file in photos.glob("*/*/*.png")
    ]
    listed = own_pictures.csv(tmp_path / "labels.csv", rows, "Path,Label,Split")
    assert show(f"csv:{listed}")["labels"] == counts
    for delimiter, encoding in ((";", "utf-8-sig"), ("\t", "utf-8")):
        (tmp_path / "other.csv").write_text(listed.read_text().replace(",", delimiter), encoding)
        assert show(f"csv:{tmp_path / 'other.csv'}")["labels"] == counts
    (tmp_path / "test/dogs/000.png").write_bytes((tmp_path / "train/dogs/000.png").read_bytes())
    leak = "1 picture is in more than one split, so the model would be tested on pictures that it learned from: "
    assert f"{leak}test/dogs/000.png and train/dogs/000.png" in refused(f"folder:{photos}")


# Pictures that are left out or refused.


def test_files_that_cannot_be_read_are_named_and_left_out(tmp_path: Path) -> None:
    photos = own_pictures.folder(tmp_path, {"cats": 20, "dogs": 20})
    whole = (photos / "cats/000.png").read_bytes()
    (photos / "cats/000.png").write_bytes(whole[:-30])
    (photos / "cats/001.png").write_bytes(b"")
    (photos / "cats/002.jpg").write_text("no picture")
    (photos / "cats/.hidden.png").write_text("not even seen")
    (photos / "dogs/readme.txt").write_text("no picture either")
    own_pictures.write(photos / "loose.png", own_pictures.noise(99))
    found = show(f"folder:{photos}")
    assert found["splits"] == {"train": 30, "validation": 4, "test": 4}
    unreadable, others, few = found["notes"]
    damaged = "cats/000.png (it cannot be decoded and seems damaged: "  # 'hangtag classify' prints the same words
    assert unreadable.startswith(f"Left out 3 pictures that cannot be read: {damaged}")
    assert "cats/001.png (it is empty (0 bytes))" in unreadable
    assert "cats/002.jpg (it is not a PNG, JPEG or WebP file; convert the file to one of these formats)" in unreadable
    assert others.startswith("Left out 2 files outside the classes' folders, or with other endings than .png, .jpg, ")
    assert others.endswith(": loose.png; dogs/readme.txt.")
    assert few == "Classes with fewer than 20 pictures, which are too few to learn from or to test with: cats (18)."
    for file in photos.glob("cats/*"):
        file.write_bytes(b"")
    assert refused(f"folder:{photos}").startswith(
        "no picture of cats can be read. The first of 21 unreadable pictures is cats/000.png ("
    )
    (photos / "emus").mkdir()
    assert "1 of 3 folders of classes" in refused(f"folder:{photos}")
    (photos / "emus").rmdir()
    for file in photos.glob("*/*.*"):
        file.write_bytes(b"")
    assert refused(f"folder:{photos}").startswith("none of 41 pictures can be read; the first is ")


def test_the_same_picture_twice_counts_once_and_in_two_classes_is_refused(tmp_path: Path) -> None:
    """Pictures are the same if their pixels are the same, even if their files differ."""
    photos = own_pictures.folder(tmp_path, {"cats": 20, "dogs": 20})
    digest = show(f"folder:{photos}")["digest"]
    shutil.copy(photos / "cats/000.png", photos / "cats/copy.png")
    Image.open(photos / "cats/001.png").convert("RGB").save(photos / "cats/other.webp", lossless=True)
    found = show(f"folder:{photos}", "--grey")
    assert (sum(found["splits"].values()), found["digest"]) == (40, digest)
    assert found["notes"] == ["Left out 2 copies of other pictures in the source: cats/copy.png; cats/other.webp."]
    assert "Left out 2 copies of" in str(show(f"folder:{photos}", "--size", "64x64")["notes"])
    Image.open(photos / "cats/000.png").save(photos / "dogs/copy.png", compress_level=0)
    message = refused(f"folder:{photos}")
    assert message.startswith("1 picture is in more than one class, so one of their labels is wrong: ")
    assert "cats/000.png and cats/copy.png and dogs/copy.png. Delete the wrong copies." in message


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"cats": 5}, "all 5 pictures are of the class 'cats', and a classifier needs at least two classes."),
        (
            {"cats": 5, "dogs": 2, "emus": 1},
            "2 of 3 classes would have no picture in train, validation or test: dogs (2); emus (1). A class needs",
        ),
        ({}, "has no folders with pictures. Put each class's pictures into a folder with the class's name"),
        ({"train/cats": 5, "test/cats": 5, "dogs": 5}, "has folders of splits and other folders (dogs)."),
        ({"train/cats": 5, "train/dogs": 5}, "but no folder for test. Add test/CLASS; or move the folders of"),
        ({"train/cats": 5, "train/dogs": 5, "test/cats": 5}, "or test: dogs (5, none in test). A class needs"),
        ({"train/cats": 5, "test/cats": 5, "test/dogs": 5}, "or test: dogs (5, none in train). A class needs"),
    ],
    ids=["one class", "few", "nothing", "mixed", "no test", "a class without test", "a class of the test alone"],
)
def test_folders_that_cannot_be_divided_are_refused(tmp_path: Path, counts: dict[str, int], expected: str) -> None:
    assert expected in refused(f"folder:{own_pictures.folder(tmp_path, counts)}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "has the columns (none). The first line of a CSV file must name the columns 'path' and 'label'"),
        ("path,label\n", "lists no pictures."),
        ("path,label\n000.png,\n", "labels.csv, line 2 has no label."),
        ("path,label\ngone.png,cats\n", "lists 1 file that is not in "),
        ("path,label,split\n000.png,cats,later\n", "line 2 has the split 'later'; it must be train, validation or"),
        ("path,label,split\n000.png,cats,train\n001.png,cats,val\n", "has no line whose split is test."),
        ('path,label\n000.png,"big\ncats"\ngone.png,cats\n', "gone.png in line 4."),
        ("path,label\n000.png,cats\n000.png,dogs\n", "000.png (cats) and 000.png (dogs). Delete the wrong copies."),
        ("path,label\n000.png,cats,dogs\n", "line 2 has 3 values for 2 columns. Put quotation marks around texts"),
        ('path,label\n000.png,"' + "x" * 200_000, "field limit (131072) after line 1). Give a CSV file that is saved"),
        (b"path,label\ncaf\xe9.png,cats\n", "labels.csv cannot be read (it is not UTF-8). Give a CSV file"),
    ],
)
def test_csv_files_that_cannot_be_used_are_refused(tmp_path: Path, text: str | bytes, expected: str) -> None:
    own_pictures.folder(tmp_path, {"": 3})
    (tmp_path / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert expected in refused(f"csv:{tmp_path / 'labels.csv'}")


def test_sources_that_are_none_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for source, expected in (
        ("folder", "there is no such data set. Choose from fashion-mnist, "),
        ("csv:", "and your own pictures: folder:PHOTOS with a folder for each class, csv:FILE.csv with the columns"),
        (f"folder:{tmp_path}/gone", "gone is not a folder. Name a folder that has a folder of pictures for each"),
        ("folder:~/gone", f"{tmp_path}/home/gone is not a folder."),
        ("csv:~nobody-here/gone", "~nobody-here/gone cannot be read (no such file or directory). Give a CSV file"),
        (f"idx:{tmp_path}/file", "file is not a folder. Name a folder with four IDX files."),
        (f"csv:{tmp_path}", f"{tmp_path} cannot be read ("),
        (tmp_path, f"--data {tmp_path} is a path. Name its kind too: folder:{tmp_path}."),
        (tmp_path / "file", f"file is a path. Name its kind too: csv:{tmp_path}/file."),
    ):
        assert expected in refused(source)


def test_folders_whose_names_differ_in_spaces_or_encoding_are_one_class(tmp_path: Path) -> None:
    folders = {"caf\u00e9": 20, "cafe\u0301 ": 20, "Tea": 20, "tea": 20}
    found = show(f"folder:{own_pictures.folder(tmp_path, folders)}")
    assert {label: sum(counts.values()) for label, counts in found["labels"].items()} == {
        "Tea": 20, "caf\u00e9": 40, "tea": 20
    }  # fmt: skip


def test_a_part_of_them_has_every_class(tmp_path: Path) -> None:
    """--limit takes every nth picture, because the pictures are sorted by name and therefore by class."""
    photos = own_pictures.folder(tmp_path, {"cats": 20, "dogs": 20, "emus": 10})
    split = sources.load(f"folder:{photos}").train
    assert np.bincount(split.first(10).classes).tolist() == [4, 4, 2]
    assert split.first(None) is split.first(99) is split
