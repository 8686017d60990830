"""Lists the pictures of a folder or of a CSV file with their labels, without opening them."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from hangtag.printable import named
from hangtag.serving.image_spec import SUFFIXES, Pixels
from hangtag.training.errors import DataCorruptError, DataNotFoundError

SPLITS = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
          "test": "test"}  # fmt: skip
"""Folders, and values of a CSV file's column ``split``, by the split that they mean."""
_COLUMNS = {"path": ("path", "file", "filename", "image"), "label": ("label", "class"), "split": ("split",)}


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture of the user's own.

    Attributes:
        path: The file.
        name: As it counts for the digest: the path relative to the source, with slashes.
        label: Its class.
        split: train, validation or test where the source says; None where the pictures are still to be split.
        pixels: Of an image in an IDX file, which holds many; else None.
        digest: SHA-256 of the content. This and what follows is known once the picture was opened.
        size: Height and width, upright, in pixels.
        grey: Whether it has no colours.
    """

    path: Path
    name: str
    label: str
    split: str | None = None
    pixels: Pixels | None = None
    digest: str = ""
    size: tuple[int, int] = (0, 0)
    grey: bool = True


def listed(source: str) -> tuple[list[Picture], list[Path]]:
    """List the pictures of ``folder:PHOTOS`` or ``csv:FILE``.

    A folder has ``PHOTOS/CLASS/**``, or ``PHOTOS/train/CLASS/**`` and ``PHOTOS/test/CLASS/**``, and perhaps
    ``PHOTOS/validation/CLASS/**``. Hidden files and folders are left out. A CSV file has the columns ``path``, relative
    to the file's folder, ``label`` and, if it likes, ``split``, which is train, validation or test.

    Returns:
        The pictures in the order of their names; and files that do not end like a picture, which were left out.

    Raises:
        DataNotFoundError: A file or a folder is not there or cannot be read, or there are no pictures.
        DataCorruptError: Some folders are splits and others are not, a split or a column lacks, a class's folder has
            no picture, or a line has no path, no label or an unknown split.
    """
    kind, _, place = source.partition(":")
    pictures, others = _in_folder(Path(place)) if kind == "folder" else (_in_csv(Path(place)), [])
    return sorted(pictures, key=lambda each: each.name), others


def held_out(source: str) -> list[Picture]:
    """List the pictures of the source's test split, or all where it has no splits. Raises as ``listed`` does."""
    pictures, _ = listed(source)
    return [picture for picture in pictures if picture.split == "test"] or pictures


def _in_folder(root: Path) -> tuple[list[Picture], list[Path]]:
    if not root.is_dir():
        raise DataNotFoundError(f"{root} is no folder. Name one that holds a folder of pictures for each class.")
    pictures: list[Picture] = []
    others: list[Path] = []
    visited: set[str] = set()
    classes: dict[str, None] = {}
    depth = 0  # of the folders that are named by their class, below the root
    for folder, folders, files in os.walk(root, onerror=_refuse, followlinks=True):
        if (real := os.path.realpath(folder)) in visited:  # a symbolic link back to a folder above
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        above = Path(folder).relative_to(root).parts
        if not above:
            depth = 1 if _are_splits(root, folders) else 0
        if len(above) <= depth:
            continue
        if len(above) == depth + 1:
            classes[above[depth]] = None
        for file in (Path(folder, each) for each in sorted(files) if not each.startswith(".")):
            if file.suffix.lower() in SUFFIXES:
                split = SPLITS[above[0].lower()] if depth else None
                pictures.append(Picture(file, file.relative_to(root).as_posix(), above[depth], split))
            else:
                others.append(file)
    if not pictures:
        raise DataNotFoundError(
            f"{root} holds no pictures in folders. Put each class's pictures into a folder of its name, such as "
            f"{root}/cats/1.jpg; files may end in {', '.join(SUFFIXES)}."
        )
    if empty := classes.keys() - {picture.label for picture in pictures}:
        raise DataCorruptError(
            f"{len(empty)} of {len(classes)} folders of classes in {root} hold no picture: {', '.join(sorted(empty))}. "
            f"Files must end in {', '.join(SUFFIXES)}; convert others, or remove the folder."
        )
    return pictures, others


def _refuse(error: OSError) -> None:
    raise DataNotFoundError(f"{error.filename} cannot be read ({error.strerror}).") from error


def _are_splits(root: Path, folders: list[str]) -> bool:
    """Whether the folders are those of splits. Raises DataCorruptError if only some are, or one lacks."""
    others = [each for each in folders if each.lower() not in SPLITS]
    if len(others) == len(folders):
        return False
    if others:
        raise DataCorruptError(
            f"{root} holds folders of splits and others ({', '.join(others)}). Put all pictures into train/CLASS and "
            "test/CLASS, or all of them into CLASS, to have them split."
        )
    splits = {SPLITS[each.lower()] for each in folders}
    if lacking := [split for split in ("train", "test") if split not in splits]:
        raise DataCorruptError(f"{root} has folders of splits, but none for {' and '.join(lacking)}.")
    return True


def _in_csv(file: Path) -> list[Picture]:
    pictures = []
    missing = []
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            rows = csv.DictReader(opened)
            names = rows.fieldnames or ()
            columns = {
                column: next((name for name in names if name.strip().lower() in spellings), "")
                for column, spellings in _COLUMNS.items()
            }
            if not columns["path"] or not columns["label"]:
                raise DataCorruptError(
                    f"{file} has the columns {', '.join(names) or '(none)'}; its first line must name the columns path "
                    "and label, and may name split."
                )
            for row in rows:
                path, label, split = ((row.get(column) or "").strip() for column in columns.values())
                line = f"{file}, line {rows.line_num}"
                if not path or not label:
                    raise DataCorruptError(f"{line} has no {'label' if path else 'path'}.")
                if columns["split"] and split.lower() not in SPLITS:
                    raise DataCorruptError(f"{line} has the split {split!r}; it must be train, validation or test.")
                if not (file.parent / path).is_file():
                    missing.append(f"{path} in line {rows.line_num}")
                pictures.append(Picture(file.parent / path, path, label, SPLITS.get(split.lower())))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataNotFoundError(f"{file} cannot be read ({error}). Name a CSV file in UTF-8.") from error
    if missing:
        raise DataNotFoundError(f"{file} names {len(missing)} files that are not in {file.parent}: {named(missing)}.")
    if not pictures:
        raise DataNotFoundError(f"{file} names no pictures.")
    if columns["split"] and "test" not in {each.split for each in pictures}:
        raise DataCorruptError(f"{file} has no line with the split test. Add some, or leave the column out.")
    return pictures
