"""Pushes models of a local repository to a store, and pulls models of a store into a local repository."""

import os
import shutil
import tempfile
from pathlib import Path

from hangtag.serving.model_repository import MODEL_FILE, is_route, names, numbered_versions, require_inside
from hangtag.serving.stores.mirror import Report
from hangtag.serving.stores.store import (
    INDEX,
    Parts,
    Store,
    StoredFile,
    is_stored_path,
    is_version,
    model_of,
    parts_of,
    stored_file,
)
from hangtag.serving.stores.store_errors import StoreError, explained


def push(source: Path, url: str, *, replace: bool, report: Report) -> None:
    """Write models to a store, and then the store's index, which makes all new files visible together.

    Other models in the store stay, and versions that ``source`` does not have stay too. The files that versions share,
    such as promoted.toml, are replaced by the files of ``source``.

    Args:
        source: A model repository, or the folder of one of its models.
        url: The store's URL.
        replace: Whether to overwrite versions that have different content.
        report: A function that is called for each file that was written.

    Raises:
        StoreError: ``source`` has no model, the store has other models but no index, a version in the store has
            different content and ``replace`` is false, or the store cannot be read or written.
        ModelRepositoryError: The local folder does not exist, or has a link to a file outside of the folder.
    """
    with explained(url):
        store = Store(url)
        is_model = numbered_versions(source) or is_route(source.parent, source.name)
        folders = [source.absolute()] if is_model else [source.absolute() / name for name in names(source)]
        mine = parts_of(file for folder in folders for file in _files(folder, folder.parent))
        if not mine:
            raise StoreError(f"{source} has no model to push: expected <name>/<version>/{MODEL_FILE}")
        theirs = store.read(may_be_empty=True)
        pushed = {model_of(part) for part in mine}
        others = sorted({model_of(part) for part in theirs} - pushed)
        if others and not store.indexed:
            raise StoreError(
                f"{store.name} has no {INDEX}, and an index of the pushed models would hide the models "
                f"{', '.join(others)}: pull all models into a folder, and push that folder"
            )
        _require_equal(
            [part for part in mine if is_version(part) and theirs.get(part, mine[part]) != mine[part]],
            f"{store.name} has different content for",
            "publish a new version",
            replace=replace,
        )
        after = {part: files for part, files in theirs.items() if model_of(part) in others or is_version(part)} | mine
        new = _all(mine) - _all(theirs)
        # Without an index, a version becomes visible when its model.onnx is written.
        for file in sorted(new, key=lambda file: (file.path.count("/") < 2, file.path.endswith(f"/{MODEL_FILE}"))):
            store.write(file, folders[0].parent / file.path)
            report(file.path, file.size)
        if after != theirs or not store.indexed:
            report(INDEX, store.publish(sorted(_all(after))))


def pull(url: str, folder: Path, *, replace: bool, report: Report) -> None:
    """Write all models of a store into a local model repository. Other files in the repository stay.

    Args:
        url: The store's URL.
        folder: The repository's folder, which need not exist.
        replace: Whether to overwrite versions that have different content.
        report: A function that is called for each written version, and for each written file that versions share.

    Raises:
        StoreError: A local version has different content and ``replace`` is false, the store cannot be read, or the
            folder cannot be written.
    """
    with explained(url):
        store = Store(url)
        parts = store.read()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".pull-") as temporary:
            new = Path(temporary)
            for files in parts.values():
                for file in files:
                    store.fetch(file, new / file.path)
            pulled = [part for part in parts if _files(new / part, new) != _files(folder / part, folder)]
            _require_equal(
                [part for part in pulled if (folder / part).is_dir()],
                f"{folder} has different content for",
                "pull into another folder",
                replace=replace,
            )
            for part in pulled:
                (folder / part).parent.mkdir(exist_ok=True)
                if (folder / part).is_dir():
                    shutil.rmtree(folder / part)
                (new / part).replace(folder / part)
                report(part, sum(file.size for file in parts[part]))


def _require_equal(others: list[str], problem: str, remedy: str, *, replace: bool) -> None:
    """Raise StoreError if parts differ and may not be replaced."""
    if others and not replace:
        listed = ", ".join(sorted(others)).replace("/", " ")
        raise StoreError(f"{problem} {listed}: {remedy}, or give --replace")


def _all(parts: Parts) -> set[StoredFile]:
    return {file for files in parts.values() for file in files}


def _files(place: Path, root: Path) -> list[StoredFile]:
    """Return the index entry of a file, or of each file in a folder. The path in an entry is relative to ``root``."""
    inside = [Path(folder, name) for folder, _, names in os.walk(place, followlinks=True) for name in names]
    files = []
    for file in inside or ([place] if place.is_file() else []):
        path = file.relative_to(root).as_posix()
        if is_stored_path(path):
            require_inside(file, root / model_of(path))
            files.append(stored_file(path, file))
    return sorted(files)
