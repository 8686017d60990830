"""Lists the pictures of a folder or of a CSV file with their labels, without opening them."""

import codecs
import csv
import io
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hangtag.printable import counted, named
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


@dataclass(frozen=True)
class Listing:
    """What a source names.

    Attributes:
        pictures: In the order in which they count for the digest.
        labels: Their labels, in their order.
        notes: Sentences about what was left out, and about labels that look alike.
    """

    pictures: list[Picture]
    labels: tuple[str, ...]
    notes: list[str]


def listed(source: str) -> Listing:
    """List the pictures of ``folder:PHOTOS`` or ``csv:FILE``, in the order of their names.

    A folder has ``PHOTOS/CLASS/**``, or ``PHOTOS/train/CLASS/**`` and ``PHOTOS/test/CLASS/**``, and perhaps
    ``PHOTOS/validation/CLASS/**``. Hidden files and folders are left out. A CSV file has the columns ``path``, relative
    to the file's folder, ``label`` and, if it likes, ``split``, which is train, validation or test. Commas, semicolons
    or tabs separate them.

    Raises:
        DataNotFoundError: A file or a folder is not there or cannot be read, or there are no pictures.
        DataCorruptError: Some folders are splits and others are not, a split or a column lacks, a class's folder has
            no picture, a line has no path, no label or an unknown split, or a CSV file is not in UTF-8.
    """
    kind, _, place = source.partition(":")
    pictures, notes = _in_folder(Path(place)) if kind == "folder" else (_in_csv(Path(place)), [])
    labels = tuple(sorted({each.label for each in pictures}))
    return Listing(sorted(pictures, key=lambda each: each.name), labels, [*notes, *_alike(labels)])


def normal(label: str) -> str:
    """A label without the spaces around it, in Unicode's normal form C: macOS writes names of folders in another."""
    return unicodedata.normalize("NFC", label).strip() or label


def _alike(labels: Iterable[str]) -> Iterator[str]:
    by_letters: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        by_letters[label.casefold()].append(label)
    for alike in by_letters.values():
        if len(alike) > 1:
            yield f"The classes {' and '.join(alike)} differ in capitals alone."


def _in_folder(root: Path) -> tuple[list[Picture], list[str]]:
    if not root.is_dir():
        raise DataNotFoundError(f"{root} is no folder. Name one that holds a folder of pictures for each class.")
    pictures: list[Picture] = []
    others: list[str] = []
    loose: list[str] = []
    visited: set[str] = set()
    classes: dict[str, list[str]] = defaultdict(list)  # the folders of each label
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
        if len(above) == depth + 1 and above[depth] not in classes[normal(above[depth])]:
            classes[normal(above[depth])].append(above[depth])
        for file in (Path(folder, each) for each in sorted(files) if not each.startswith(".")):
            name, is_picture = file.relative_to(root).as_posix(), file.suffix.lower() in SUFFIXES
            if len(above) <= depth:
                loose += [name] if is_picture else []
            elif is_picture:
                split = SPLITS[above[0].lower()] if depth else None
                pictures.append(Picture(file, name, normal(above[depth]), split))
            else:
                others.append(name)
    endings = ", ".join(SUFFIXES)
    if not pictures:
        raise DataNotFoundError(
            f"{root} holds no pictures in folders. Put each class's pictures into a folder of its name, such as "
            f"{root}/cats/1.jpg; files may end in {endings}."
        )
    if empty := classes.keys() - {picture.label for picture in pictures}:
        raise DataCorruptError(
            f"{len(empty)} of {len(classes)} folders of classes in {root} hold no picture: {', '.join(sorted(empty))}. "
            f"Files must end in {endings}; convert others, or remove the folder."
        )
    notes = [
        f"Left out {counted(len(names), *nouns)}: {named(names)}."
        for names, nouns in (
            (loose, ("picture that is in no class's folder", "pictures that are in no class's folder")),
            (others, (f"file whose name does not end in {endings}", f"files whose names do not end in {endings}")),
        )
        if names
    ]
    same = [" and ".join(map(repr, folders)) for folders in classes.values() if len(folders) > 1]
    if same:
        notes.append(
            f"Folders whose names differ by spaces or by how letters are encoded are one class: {named(same)}."
        )
    return pictures, notes


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
    text = _text(file)
    try:
        header = text.partition("\n")[0]
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
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
            pictures.append(Picture(file.parent / path, path, normal(label), SPLITS.get(split.lower())))
    except csv.Error as error:
        raise DataCorruptError(f"{file} cannot be read as a CSV file ({error}).") from error
    if missing:
        count = counted(len(missing), "file that is", "files that are")
        raise DataNotFoundError(f"{file} names {count} not in {file.parent}: {named(missing)}.")
    if not pictures:
        raise DataNotFoundError(f"{file} names no pictures.")
    if columns["split"] and "test" not in {each.split for each in pictures}:
        raise DataCorruptError(f"{file} has no line with the split test. Add some, or leave the column out.")
    return pictures


def _text(file: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 with its mark, as spreadsheets write it."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataNotFoundError(f"{file} cannot be read ({error.strerror}). Name a CSV file.") from error
    is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_utf_16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataCorruptError(
            f"{file}, line {line} is not in UTF-8. Save the file so; spreadsheets call it 'CSV UTF-8'."
        ) from error
