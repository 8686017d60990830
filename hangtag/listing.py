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

from hangtag.errors import DataCorruptError, DataNotFoundError
from hangtag.printable import counted, named
from hangtag.serving.image_spec import SUFFIXES, Pixels

SPLITS = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
          "test": "test"}  # fmt: skip
"""Names of folders, and values of a CSV file's column ``split``, with the split that each means."""
_COLUMNS = {"path": ("path", "file", "filename", "image"), "label": ("label", "class"), "split": ("split",)}


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture of the user's own.

    Attributes:
        path: The file.
        name: The name that counts for the digest: the path relative to the source, with slashes.
        label: The class of the picture.
        split: train, validation or test if the source says so; None if the pictures are still to be split.
        pixels: The pixels of an image in an IDX file, which holds many images; else None.
        digest: SHA-256 of the file, or of an IDX image's pixels. This and the following attributes are known once the
            picture was opened.
        content: SHA-256 of the pixels that a network sees, once the picture was decoded. Pictures with the same content
            count as one.
        size: Height and width, upright, in pixels.
        grey: Whether the picture has no colours.
        bytes: How many bytes the file has.
    """

    path: Path
    name: str
    label: str
    split: str | None = None
    pixels: Pixels | None = None
    digest: str = ""
    content: str = ""
    size: tuple[int, int] = (0, 0)
    grey: bool = True
    bytes: int = 0


@dataclass(frozen=True)
class Listing:
    """The pictures that a source names.

    Attributes:
        pictures: In the order in which they count for the digest.
        labels: The pictures' labels, in their order.
        notes: Sentences about what was left out, and about labels that look alike.
    """

    pictures: list[Picture]
    labels: tuple[str, ...]
    notes: list[str]


def place_of(source: str) -> Path:
    """The path that a source names, with ~ expanded: a shell expands ~ only at the start of a word, not in
    folder:~/photos."""
    path = Path(source.partition(":")[2])
    try:
        return path.expanduser()
    except RuntimeError:  # the path names a user that this machine does not have
        return path


def listed(source: str) -> Listing:
    """List the pictures of ``folder:PHOTOS`` or ``csv:FILE``, in the order of their names.

    A folder has ``PHOTOS/CLASS/**``, or ``PHOTOS/train/CLASS/**`` and ``PHOTOS/test/CLASS/**``, and perhaps
    ``PHOTOS/validation/CLASS/**``. Hidden files and folders are left out. A CSV file has the columns ``path``, relative
    to the file's folder, ``label`` and optionally ``split``, which is train, validation or test. Commas, semicolons or
    tabs separate them.

    Raises:
        DataNotFoundError: A file or a folder is not there or cannot be read, or there are no pictures.
        DataCorruptError: Some folders are splits and others are not, a split or a column is missing, a class's folder
            has no picture, a line has no path, no label or an unknown split, or a CSV file is not in UTF-8.
    """
    place = place_of(source)
    pictures, notes = _in_folder(place) if source.startswith("folder:") else (_in_csv(place), [])
    labels = tuple(sorted({each.label for each in pictures}))
    return Listing(sorted(pictures, key=lambda each: each.name), labels, [*notes, *_alike(labels)])


def normal(label: str) -> str:
    """A label without the spaces around it, in Unicode's form C; macOS writes the names of folders in another form."""
    return unicodedata.normalize("NFC", label).strip() or label


def _alike(labels: Iterable[str]) -> Iterator[str]:
    by_letters: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        by_letters[label.casefold()].append(label)
    for alike in by_letters.values():
        if len(alike) > 1:
            yield f"The classes {' and '.join(alike)} differ only in capitals."


def _in_folder(root: Path) -> tuple[list[Picture], list[str]]:
    if not root.is_dir():
        raise DataNotFoundError(f"{root} is not a folder. Name a folder with a folder of pictures for each class.")
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
    """Whether the folders are those of splits. Raises DataCorruptError if only some are, or if a split is missing."""
    others = [each for each in folders if each.lower() not in SPLITS]
    if len(others) == len(folders):
        return False
    if others:
        raise DataCorruptError(
            f"{root} holds folders of splits and other folders ({', '.join(others)}). Put all pictures into "
            "train/CLASS and test/CLASS, or all of them into CLASS, to have them split."
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
            if None in row:  # None has the values beyond the columns
                raise DataCorruptError(
                    f"{line} has {len(names) + len(row[None])} values for {len(names)} columns. Put texts that contain "
                    "a separator between quotation marks."
                )
            if not path or not label:
                raise DataCorruptError(f"{line} has no {'label' if path else 'path'}.")
            if columns["split"] and split.lower() not in SPLITS:
                raise DataCorruptError(f"{line} has the split {split!r}; it must be train, validation or test.")
            if not (file.parent / path).is_file():
                missing.append(f"{path} in line {rows.line_num}")
            pictures.append(Picture(file.parent / path, path, normal(label), SPLITS.get(split.lower())))
    except csv.Error as error:
        raise DataCorruptError(
            f"{file} cannot be read as CSV after line {rows.line_num}: is a quotation mark not closed?"
        ) from error
    if missing:
        count = counted(len(missing), "file that is", "files that are")
        raise DataNotFoundError(f"{file} names {count} not in {file.parent}: {named(missing)}.")
    if not pictures:
        raise DataNotFoundError(f"{file} names no pictures.")
    if columns["split"] and "test" not in {each.split for each in pictures}:
        raise DataCorruptError(f"{file} has no line with the split test. Add such lines, or leave the column out.")
    return pictures


def _text(file: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte order mark, as spreadsheets write it."""
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
            f"{file}, line {line} is not in UTF-8. Save the file in UTF-8, which spreadsheets call 'CSV UTF-8'."
        ) from error
