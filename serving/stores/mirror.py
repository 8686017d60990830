"""Mirrors a model repository in a store to a local folder, which servers serve like any other repository.

    <cache>/<store>-<digest>/
        models/                     a model repository
            <name>                  a link to a folder in .parts, which has a link for each version and shared file
            .parts/<digest>/        a whole version, a shared file such as promoted.toml, or the links of a model; named
                                    by the digest of the content
            .new/                   a folder that is being written
        complete                    exists if the folder was equal to the store
        lock                        locked by the process that changes the folder; other processes only serve the folder

When all new files of a model are fetched and checked, one rename changes the whole model. All links stay inside the
repository, as model_repository.require_inside demands. Files that no model needs stay until their space is needed.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from hangtag.serving.model_repository import PROMOTION_FILE, ModelRepositoryError, names, promotion
from hangtag.serving.stores.store import Parts, StoredFile, is_version, model_of, open_store
from hangtag.serving.stores.store_errors import StoreAwayError, StoreError, explained

Report = Callable[[str, int], object]
"""A function that receives the name of a written version or file, such as cnn/1, and the size in bytes."""


class Mirror:
    """The local copy of a store. The attribute ``models`` is the model repository to serve.

    Example:
        mirror = Mirror("s3://bucket/models", None, report=print)
        mirror.update()
        print(mirror.models)
    """

    def __init__(
        self,
        url: str,
        cache: Path | None,
        *,
        most_mib: int = 10240,
        num_versions: int = 1,
        silent_seconds: float = 20.0,
        report: Report,
    ) -> None:
        """Open the store, without sending anything.

        Args:
            url: See ``open_store``.
            cache: The folder of all mirrors; None for a folder in the user's cache folder.
            most_mib: The largest size of the mirror in MiB.
            num_versions: The number of the latest versions of each model to mirror; 0 for all versions. The version
                before the latest versions is mirrored too, because a server may have to return to it. The promoted
                version is always mirrored. Each value of `num_versions` has its own mirror.
            silent_seconds: See ``Store``.
            report: A function that is called for each fetched version, and for each fetched file that versions share.

        Raises:
            StoreError: The URL cannot be used.
        """
        with explained(url):
            self._store = open_store(url, silent_seconds)
        self._url = url
        self._most = most_mib << 20
        self._num_versions = num_versions
        self._report = report
        cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hangtag" / "models"
        slug = re.sub(r"\W+", "-", self._store.name)[:60]
        self._folder = cache / f"{slug}-{_digest([*self._store.identity, num_versions])[:12]}"
        self.models = self._folder / "models"
        """The folder of the model repository."""
        self._parts = self.models / ".parts"
        self._new = self.models / ".new"
        self._mirrored: Mapping[str, StoredFile] | None = None  # the store's files at the last complete update

    def update(self) -> str | None:
        """Update the folder from the store now. If another process is updating the folder, this call only waits for
        the first complete copy.

        Returns:
            The reason why the folder, or a part of it, could not be updated. The text is empty if the folder was
            updated. The result is None if another process is updating the folder.

        Raises:
            StoreError: The folder could not be updated, and has no complete earlier copy of the store.
        """
        complete = self._folder / "complete"
        was_complete = complete.exists()
        try:
            with explained(self._url):
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._parts.mkdir(parents=True, exist_ok=True)
                with (self._folder / "lock").open("a") as lock:
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | (fcntl.LOCK_NB if was_complete else 0))
                    except BlockingIOError:
                        return None
                    self._store.read()
                    if was_complete and self._store.files == self._mirrored:
                        return ""
                    trouble = self._update(self._store.parts())
                    if not trouble:
                        complete.touch()
                        self._mirrored = self._store.files
        except StoreError as error:
            trouble = str(error)
        if trouble and not was_complete:
            raise StoreError(f"{trouble}. {self._folder} has no complete earlier copy, so nothing can be served.")
        return trouble

    def _update(self, parts: Parts) -> str:
        """Update the models that differ. Returns the models that failed, with reasons.

        Raises StoreError if nothing can be updated.
        """
        models: dict[str, Parts] = {}
        for part, files in parts.items():
            models.setdefault(model_of(part), {})[part] = files
        troubles = []
        for name, inside in models.items():
            try:
                with explained(self._url):
                    self._update_model(name, inside)
            except StoreAwayError:
                raise
            except StoreError as error:
                troubles.append(f"{name}: {error}")
        for name in set(names(self.models)) - set(models):
            (self.models / name).unlink()
        return "; ".join(troubles)

    def _update_model(self, name: str, parts: Parts) -> None:
        digests = {part: _digest([[_inside(path), *rest] for path, *rest in files]) for part, files in parts.items()}
        kept = {part: digest for part, digest in digests.items() if not is_version(part)}
        for part in kept:
            self._fetch(part, parts[part], kept)
        kept |= {part: digests[part] for part in self._versions(name, parts, digests)}
        for part in kept:
            self._fetch(part, parts[part], kept)
        model = Path(".parts", _digest(sorted(kept.items())))
        if not (self.models / model).is_dir():
            self._clear_new()
            for part, digest in kept.items():
                (self._new / _inside(part)).symlink_to(Path("..", digest, _inside(part)))
            self._new.rename(self.models / model)
        link = self.models / name
        if not link.is_symlink() or link.readlink() != model:
            self._clear_new()
            (self._new / name).symlink_to(model)
            (self._new / name).replace(link)

    def _versions(self, name: str, parts: Parts, digests: Mapping[str, str]) -> set[str]:
        """Choose the versions of a model to mirror. If the model has a promoted.toml, the file is already fetched."""
        versions = sorted(filter(is_version, parts), key=lambda part: int(_inside(part)), reverse=True)
        kept = set(versions[: self._num_versions + 1] if self._num_versions else versions)
        promoted = digests.get(f"{name}/{PROMOTION_FILE}")
        with contextlib.suppress(ModelRepositoryError):  # the server reports a file that is not valid
            if promoted is not None and (choice := promotion(self._parts / promoted)) is not None:
                kept |= {f"{name}/{choice.version}"} & set(versions)
        return kept

    def _fetch(self, part: str, files: list[StoredFile], needed: Mapping[str, str]) -> None:
        """Fetch a part unless its folder exists. No folder that is ``needed`` is removed to make room."""
        folder = self._parts / needed[part]
        if folder.is_dir():
            os.utime(folder)  # marks the folder as recently used, for _make_room
            return
        size = sum(file.size for file in files)
        self._make_room(size, needed.values())
        self._clear_new()
        for file in files:
            self._store.fetch(file, self._new / _inside(file.path))
        self._new.rename(folder)
        self._report(part, size)

    def _clear_new(self) -> None:
        """Empty the folder that is being written, in which an interrupted process may have left files."""
        shutil.rmtree(self._new, ignore_errors=True)
        self._new.mkdir()

    def _make_room(self, size: int, needed: Collection[str]) -> None:
        """Remove folders that no model needs, least recently used first, until `size` bytes are free."""
        used = set(needed)
        for name in names(self.models):
            model = (self.models / name).resolve()
            used |= {model.name, *(link.readlink().parts[1] for link in model.iterdir())}
        sizes = {folder: _size(folder) for folder in self._parts.iterdir()}
        total = sum(sizes.values())
        for folder in sorted(sizes, key=lambda folder: folder.stat().st_mtime):
            if total + size > self._most and folder.name not in used:
                shutil.rmtree(folder)
                total -= sizes[folder]
        if total + size > self._most:
            raise StoreError(
                f"the model cache is limited to {self._most >> 20:,} MiB, and the versions in use leave no room for "
                f"{size / 2**20:,.1f} MiB: raise --model-cache-mib, or remove versions from the store"
            )


def _inside(path: str) -> str:
    """Return the path inside the model's folder."""
    return path.partition("/")[2]


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*"))
