"""Lists the pictures of a folder or of a CSV file with their labels, without opening them."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hangtag.serving.image_spec import SUFFIXES
from hangtag.training.errors import DataCorruptError, DataNotFoundError

SPLITS = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
          "test": "test"}  # fmt: skip
"""Folders, and values of a CSV file's column ``split``, by the split that they mean."""
_COLUMNS = {"path": ("path", "file", "filename", "image"), "label": ("label", "class"), "split": ("split",)}


@dataclass(frozen=True)
class Listed:
    """A picture that a source names.

    Attributes:
        path: The file.
        name: The path as it counts for the digest: relative to the source, with slashes.
        label: Its class.
        split: train, validation or test where the source says; None where the pictures are still to be split.
    """

    path: Path
    name: str
    label: str
    split: str | None = None


@dataclass(frozen=True)
class Listing:
    """The pictures of a source, by name, and the files that are none.

    Attributes:
        pictures: In the order of their names.
        others: Files that do not end like a picture, and were left out.
    """

    pictures: tuple[Listed, ...]
    others: tuple[Path, ...] = ()


def folder(root: Path) -> Listing:
    """List ``root/CLASS/**``, or ``root/train/CLASS/**`` and ``root/test/CLASS/**``.

    With the latter, ``root/validation/CLASS/**`` may be there too. A class's folder may have folders of its own. Hidden
    files and folders are left out.

    Raises:
        DataNotFoundError: There is no such folder, it cannot be read, or it holds no folder of pictures.
        DataCorruptError: Some folders are splits and others are not, or a split lacks.
    """
    if not root.is_dir():
        raise DataNotFoundError(f"{root} is no folder. Name one that holds a folder of pictures for each class.")
    folders = _folders(root)
    splits = {each.name.lower() for each in folders if each.name.lower() in SPLITS}
    pictures: list[Listed] = []
    others: list[Path] = []
    classes: list[tuple[Path, str | None]]
    if splits:
        _require_splits(root, folders)
        classes = [(each, SPLITS[split.name.lower()]) for split in folders for each in _folders(split)]
    else:
        classes = [(each, None) for each in folders]
    for each, split in classes:
        for file in _files(each):
            if file.suffix.lower() in SUFFIXES:
                pictures.append(Listed(file, file.relative_to(root).as_posix(), each.name, split))
            else:
                others.append(file)
    if not pictures:
        raise DataNotFoundError(
            f"{root} holds no pictures in folders. Put each class's pictures into a folder of its name, such as "
            f"{root}/cats/1.jpg; files may end in {', '.join(SUFFIXES)}."
        )
    return Listing(tuple(sorted(pictures, key=lambda each: each.name)), tuple(others))


def csv_file(file: Path) -> Listing:
    """List the pictures of a CSV file with the columns ``path``, ``label`` and, if it likes, ``split``.

    Paths are relative to the file's folder. ``split`` is train, validation or test.

    Raises:
        DataNotFoundError: The file, or a picture that it names, is not there or cannot be read.
        DataCorruptError: A column lacks, or a line has no path, no label or an unknown split.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataNotFoundError(f"{file} cannot be read ({error}). Name a CSV file in UTF-8.") from error
    rows = csv.DictReader(text.splitlines())
    columns = {name: _column(rows.fieldnames or (), spellings) for name, spellings in _COLUMNS.items()}
    if columns["path"] is None or columns["label"] is None:
        raise DataCorruptError(
            f"{file} has the columns {', '.join(rows.fieldnames or ()) or '(none)'}; its first line must name the "
            "columns path and label, and may name split."
        )
    pictures = []
    for row in rows:
        path, label, split = ((row.get(column) or "").strip() if column else "" for column in columns.values())
        line = f"{file}, line {rows.line_num}"
        if not path or not label:
            raise DataCorruptError(f"{line} has no {'path' if not path else 'label'}.")
        if columns["split"] and split.lower() not in SPLITS:
            raise DataCorruptError(f"{line} has the split {split!r}; it must be train, validation or test.")
        if not (file.parent / path).is_file():
            raise DataNotFoundError(f"{line} names {path}, which is no file in {file.parent}.")
        pictures.append(Listed(file.parent / path, path, label, SPLITS[split.lower()] if columns["split"] else None))
    if not pictures:
        raise DataNotFoundError(f"{file} names no pictures.")
    if len(found := {each.split for each in pictures}) > 1 and "test" not in found:
        raise DataCorruptError(f"{file} has no line with the split test. Add some, or leave the column out.")
    return Listing(tuple(sorted(pictures, key=lambda each: each.name)))


def _folders(root: Path) -> list[Path]:
    return [each for each in _entries(root) if each.is_dir()]


def _files(folder: Path) -> Iterator[Path]:
    for each in _entries(folder):
        if each.is_dir():
            yield from _files(each)
        else:
            yield each


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    except OSError as error:
        raise DataNotFoundError(f"{folder} cannot be read ({error.strerror}).") from error


def _require_splits(root: Path, folders: list[Path]) -> None:
    found = {SPLITS.get(each.name.lower()) for each in folders}
    if None in found:
        others = ", ".join(each.name for each in folders if each.name.lower() not in SPLITS)
        raise DataCorruptError(
            f"{root} holds folders of splits and others ({others}). Put all pictures into train/CLASS and test/CLASS, "
            "or all of them into CLASS, to have them split."
        )
    if lacking := [name for name in ("train", "test") if name not in found]:
        raise DataCorruptError(f"{root} has folders of splits, but none for {' and '.join(lacking)}.")


def _column(names: object, spellings: tuple[str, ...]) -> str | None:
    found = [name for name in names if name.strip().lower() in spellings]  # type: ignore[attr-defined]
    return found[0] if found else None
