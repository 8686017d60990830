"""Pushes models of a local repository to a store, and pulls models of a store into a local repository."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from hangtag.serving.model_repository import MODEL_FILE, is_route, names, numbered_versions, require_inside
from hangtag.serving.stores.location import StoreError, explained
from hangtag.serving.stores.mirror import Mirror, Report
from hangtag.serving.stores.snapshot import (
    INDEX,
    NoIndexError,
    Snapshot,
    StoredFile,
    is_stored_path,
    is_version,
    open_store,
)


def push(source: Path, url: str, *, replace: bool, report: Report) -> None:
    """Write models to a store, and then the store's index, which makes all new files visible at once.

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
    store = open_store(url)
    local = _local_files(source)
    new = {path: _hashed(path, file) for path, file in local.items()}
    mine, before = Snapshot(new).models(), Snapshot()
    if not mine:
        raise StoreError(f"{source} has no model to push: expected <name>/<version>/{MODEL_FILE}")
    with contextlib.suppress(NoIndexError):
        before = store.read()
    theirs = before.models()
    hidden = sorted(set(theirs) - set(mine))
    if hidden and not before.indexed:
        raise StoreError(
            f"{store.name} has no {INDEX}, and an index of the pushed models would hide the models "
            f"{', '.join(hidden)}: pull all models into a folder, and push that folder"
        )
    others = {
        f"{name} {part}"
        for name, parts in mine.items()
        for part in parts
        if is_version(part) and part in theirs.get(name, {}) and theirs[name][part] != parts[part]
    }
    if others and not replace:
        raise StoreError(
            f"{store.name} has different content for {', '.join(sorted(others))}: publish a new version, or give "
            "--replace"
        )
    kept = [
        file
        for name, parts in theirs.items()
        for part, files in parts.items()
        if name not in mine or (is_version(part) and part not in mine[name])
        for file in files
    ]
    after = {file.path: file for file in (*kept, *new.values())}
    for path in sorted(new, key=lambda path: (path.count("/") < 2, path.endswith(f"/{MODEL_FILE}"))):
        if before.files.get(path) != new[path]:
            store.write(new[path], local[path])
            report(path, new[path].size)
    if after != before.files:
        report(store.index, store.publish([file for _, file in sorted(after.items())], before))


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
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".pull-") as cache:
            mirror = Mirror(url, Path(cache), most_mib=1 << 30, num_versions=0, report=lambda *_: None)
            mirror.prepare()
            links = [link for name in names(mirror.models) for link in sorted((mirror.models / name).iterdir())]
            pulled = {folder / link.relative_to(mirror.models): link for link in links}
            pulled = {target: link for target, link in pulled.items() if _contents(target) != _contents(link)}
            others = [f"{target.parent.name} {target.name}" for target in pulled if target.is_dir()]
            if others and not replace:
                raise StoreError(
                    f"{folder} has different content for {', '.join(others)}: pull into another folder, or give "
                    "--replace"
                )
            for target, link in pulled.items():
                target.parent.mkdir(exist_ok=True)
                if target.is_dir():
                    shutil.rmtree(target)
                link.resolve().replace(target)
                report(f"{target.parent.name}/{target.name}", sum(file.size for file in _contents(target).values()))


def _local_files(source: Path) -> dict[str, Path]:
    """Find the files to push, by their path in the store."""
    one = numbered_versions(source) or is_route(source.parent, source.name)
    folders = [source.absolute()] if one else [source.absolute() / name for name in names(source)]
    files = {}
    for folder in folders:
        for place, _, inside in os.walk(folder, followlinks=True):
            for file in (Path(place, name) for name in inside):
                path = file.relative_to(folder.parent).as_posix()
                if is_stored_path(path):
                    require_inside(file, folder)
                    files[path] = file
    return files


def _hashed(path: str, file: Path) -> StoredFile:
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return StoredFile(path, file.stat().st_size, digest)


def _contents(place: Path) -> dict[str, StoredFile]:
    """Return the size and digest of a file, or of each file in a folder, by path."""
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    return {str(file.relative_to(place)): _hashed("", file) for file in files if file.is_file()}
