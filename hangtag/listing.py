"""Lists the pictures of a folder or of a CSV file with their labels, without opening the pictures."""

import csv
import io
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hangtag.errors import DataCorruptError, DataNotFoundError, reason
from hangtag.printable import counted, named
from hangtag.serving.image_spec import SUFFIXES, Pixels

_SPLITS = {"train": "train", "training": "train", "val": "validation", "valid": "validation",
           "validation": "validation", "test": "test"}  # fmt: skip
"""Name of a folder, or value in the column ``split`` of a CSV file -> name of the split."""
_ENDINGS = ", ".join(SUFFIXES)


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that the user supplies. The attributes from ``digest`` on are set when the picture is opened."""

    path: Path  # the file
    name: str  # the path relative to the source, with slashes; the data set's digest covers this name
    label: str  # the class
    split: str | None = None  # train, validation or test; None if the source does not name the split
    pixels: Pixels | None = None  # the pixels of an image from an IDX file, which holds many images
    digest: str = ""  # the SHA-256 of the file, or of an IDX image's pixels
    # The SHA-256 of the pixels that a network receives, set when the picture is decoded. Copies of a picture share it.
    content: str = ""
    size: tuple[int, int] = (0, 0)  # height and width, after the picture is turned upright
    grey: bool = True  # whether the picture has no colours
    bytes: int = 0  # the size of the file


@dataclass(frozen=True)
class Listing:
    """The pictures that a source contains."""

    pictures: list[Picture]  # in the order in which the data set's digest is computed
    labels: tuple[str, ...]  # each label of the pictures once, in the order of the classes
    notes: list[str]  # sentences that say which files were left out
    unreadable: Sequence[str] = ()  # the names of the pictures that could not be read, with the reasons


def place_of(source: str) -> Path:
    """Return the path that a source names. A leading ~ is expanded, because shells ignore it in folder:~/photos."""
    return Path(os.path.expanduser(source.partition(":")[2]))  # noqa: PTH111  (Path.expanduser may raise RuntimeError)


def listed(source: str) -> Listing:
    """List the pictures of ``folder:PHOTOS`` or ``csv:FILE``, in the order of their names.

    A folder has ``PHOTOS/CLASS/**``, or ``PHOTOS/train/CLASS/**`` and ``PHOTOS/test/CLASS/**``, and optionally
    ``PHOTOS/validation/CLASS/**``. Hidden files and folders are left out. A CSV file has the columns ``path``,
    ``label`` and optionally ``split``, separated by commas, semicolons or tabs. A path is relative to the file's
    folder. A split is train, validation or test.

    Raises:
        DataNotFoundError: A folder cannot be read, a picture is missing, or there are no pictures.
        DataCorruptError: One of: some folders are splits and others are not; a split or a column is missing; a class's
            folder has no picture; a line has no path, no label or an unknown split; a CSV file cannot be read.
    """
    place = place_of(source)
    pictures, notes = _in_folder(place) if source.startswith("folder:") else (_in_csv(place), [])
    labels = tuple(sorted({each.label for each in pictures}))
    return Listing(sorted(pictures, key=lambda each: each.name), labels, notes)


def normal(label: str) -> str:
    """Return a label without surrounding spaces, in Unicode's normal form C. macOS writes folders' names in another
    form."""
    return unicodedata.normalize("NFC", label).strip() or label


def _in_folder(root: Path) -> tuple[list[Picture], list[str]]:
    if not root.is_dir():
        raise DataNotFoundError(f"{root} is not a folder. Name a folder that has a folder of pictures for each class.")
    pictures, left_out = list[Picture](), list[str]()
    visited, classes = set[str](), set[str]()
    depth = 0  # 1 if the root contains folders of splits, which contain the folders of classes
    for folder, folders, files in os.walk(root, onerror=_refuse, followlinks=True):
        if (real := os.path.realpath(folder)) in visited:  # a symbolic link may lead back to a folder above
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        above = Path(folder).relative_to(root).parts
        if not above:
            depth = 1 if _are_splits(root, folders) else 0
        if len(above) == depth + 1:
            classes.add(normal(above[depth]))
        for file in (Path(folder, each) for each in sorted(files) if not each.startswith(".")):
            name, is_picture = file.relative_to(root).as_posix(), file.suffix.lower() in SUFFIXES
            if is_picture and len(above) > depth:
                split = _SPLITS[above[0].lower()] if depth else None
                pictures.append(Picture(file, name, normal(above[depth]), split))
            elif is_picture or len(above) > depth:
                left_out.append(name)
    if not pictures:
        raise DataNotFoundError(
            f"{root} has no folders with pictures. Put each class's pictures into a folder with the class's name, such "
            f"as {root}/cats/1.jpg. File names may end in {_ENDINGS}."
        )
    if empty := classes - {picture.label for picture in pictures}:
        raise DataCorruptError(
            f"{len(empty)} of {len(classes)} folders of classes in {root} have no pictures: "
            f"{', '.join(sorted(empty))}. File names must end in {_ENDINGS}. Convert other files, or remove the folder."
        )
    what = counted(len(left_out), "file", "files")
    note = f"Left out {what} outside the classes' folders, or with other endings than {_ENDINGS}: {named(left_out)}."
    return pictures, [note] if left_out else []


def _refuse(error: OSError) -> None:
    raise DataNotFoundError(f"{error.filename} cannot be read ({error.strerror}).") from error


def _are_splits(root: Path, folders: list[str]) -> bool:
    """Return whether the folders are named after splits. Raises DataCorruptError if only some folders are named after
    splits, or if the folder of a split is missing."""
    others = [each for each in folders if each.lower() not in _SPLITS]
    if len(others) == len(folders):
        return False
    if others:
        raise DataCorruptError(
            f"{root} has folders of splits and other folders ({', '.join(others)}). Put all pictures into "
            "train/CLASS and test/CLASS; or put all pictures into CLASS, and hangtag splits them."
        )
    splits = {_SPLITS[each.lower()] for each in folders}
    if lacking := [split for split in ("train", "test") if split not in splits]:
        raise DataCorruptError(
            f"{root} has folders of splits, but no folder for {' and '.join(lacking)}. Add {lacking[0]}/CLASS; or move "
            "the folders of the classes out of the folders of the splits, and hangtag splits the pictures."
        )
    return True


def _in_csv(file: Path) -> list[Picture]:
    pictures, missing = list[Picture](), list[str]()
    try:
        text = file.read_bytes().decode("utf-8-sig")
        header = text.partition("\n")[0]
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
        names = rows.fieldnames or ()
        columns = {name.strip().lower(): name for name in names}
        if not {"path", "label"} <= columns.keys():
            raise DataCorruptError(
                f"{file} has the columns {', '.join(names) or '(none)'}. The first line of a CSV file must name the "
                "columns 'path' and 'label', and may name the column 'split'."
            )
        for row in rows:
            path, label, split = ((row.get(columns.get(key, key)) or "").strip() for key in ("path", "label", "split"))
            line = f"{file}, line {rows.line_num}"
            if None in row:  # under the key None, csv.DictReader collects the values beyond the last column
                raise DataCorruptError(
                    f"{line} has {len(names) + len(row[None])} values for {len(names)} columns. Put quotation marks "
                    "around texts that contain a separator."
                )
            if not path or not label:
                raise DataCorruptError(f"{line} has no {'label' if path else 'path'}.")
            if "split" in columns and split.lower() not in _SPLITS:
                raise DataCorruptError(f"{line} has the split {split!r}; it must be train, validation or test.")
            if not (file.parent / path).is_file():
                missing.append(f"{path} in line {rows.line_num}")
            pictures.append(Picture(file.parent / path, path, normal(label), _SPLITS.get(split.lower())))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        line = f" after line {rows.line_num}" if isinstance(error, csv.Error) else ""
        raise DataCorruptError(
            f"{file} cannot be read ({reason(error)}{line}). Give a CSV file that is saved as UTF-8 (in spreadsheets: "
            "'CSV UTF-8') and that has a closing quotation mark for each opening one."
        ) from error
    if missing:
        count = counted(len(missing), "file that is", "files that are")
        raise DataNotFoundError(f"{file} lists {count} not in {file.parent}: {named(missing)}.")
    if not pictures:
        raise DataNotFoundError(f"{file} lists no pictures.")
    if "split" in columns and "test" not in {each.split for each in pictures}:
        raise DataCorruptError(
            f"{file} has no line whose split is test. Add lines with this split, or leave out the column 'split'."
        )
    return pictures
