"""Mirrors a model repository in a store to a local folder, which servers serve like any other repository.

    <cache>/<store>-<digest>/       the mirror
        <name>                      a link to a folder in .parts, which has a link for each version and shared file
        .parts/<digest>             a whole version, a shared file such as promoted.toml, or the links of a model; the
                                    digest is of the files' names, sizes and tags
        .parts/.new                 the links of the model that is being updated, and the part that is being fetched
        .complete                   exists if the mirror was equal to the store
        .lock                       locked by the process that changes the mirror; other processes only serve the mirror

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
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

from hangtag.serving.model_repository import ModelRepositoryError, names, promotion
from hangtag.serving.stores.store import Parts, Store, StoredFile, StoreError, explained, is_version, model_of

Report = Callable[[str, int], object]
"""A function that receives the name of a written version or file, such as cnn/1, and the size in bytes."""


class Mirror:
    """The local copy of a store. The attribute ``models`` is the model repository to serve."""

    def __init__(
        self, store: Store, cache: Path | None, report: Report, *, most_mib: int = 10240, num_versions: int = 1
    ) -> None:
        """Prepare the mirror, without reading the store.

        Args:
            store: The store.
            cache: The folder of all mirrors; None for a folder in the user's cache folder.
            report: A function that is called for each fetched version, and for each fetched file that versions share.
            most_mib: The largest size of the mirror in MiB.
            num_versions: How many of each model's latest versions to mirror; 0 for all versions. The version before
                these is mirrored too, because a server may have to roll back to it. The promoted version is always
                mirrored. Each value of num_versions has its own mirror.
        """
        self._store = store
        self._report = report
        self._most = most_mib << 20
        self._num_versions = num_versions
        cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hangtag" / "models"
        slug = re.sub(r"\W+", "-", store.name)[:60]
        self.models = cache / f"{slug}-{_digest([num_versions, *store.identity])[:12]}"
        self._parts = self.models / ".parts"
        self._new = self._parts / ".new"
        self._complete = self.models / ".complete"

    def update(self, *, partly: bool = False) -> str | None:
        """Update the mirror from the store now. If another process is updating the mirror, only wait for the first
        complete copy.

        Returns:
            Why the mirror, or some of its models, could not be updated: "" after an update, and None if another
            process is updating the mirror. Raises StoreError if there is no complete copy after a failed update; if
            ``partly`` is true, a complete copy of one model is enough.
        """
        try:
            with explained(self._store.name):
                self._parts.mkdir(mode=0o700, parents=True, exist_ok=True)
                with (self.models / ".lock").open("a") as lock:
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | (fcntl.LOCK_NB if self._complete.exists() else 0))
                    except BlockingIOError:
                        return None
                    self._update(self._store.read())
                    self._complete.touch()
        except StoreError as error:
            if not (self._complete.exists() or (partly and any(self.models.glob("[!.]*")))):
                raise StoreError(f"{error}. {self.models} has no complete copy, so nothing can be served.") from error
            return str(error)
        return ""

    def _update(self, parts: Parts) -> None:
        """Update the models that differ from the store's models. If the update of a model fails, update the others,
        and then raise a StoreError that names the failed models. If the store is unreachable, fail at once."""
        self._free = 0  # unknown until the first fetch, because another process may have changed the mirror
        troubles = []
        for name, inside in groupby(parts, model_of):
            try:
                with explained(self._store.name):
                    self._update_model(name, {part: parts[part] for part in inside})
            except StoreError as error:
                troubles.append(f"{name}: {error}")
                self._store.read()  # raises an error if the whole store is unreachable, so that the update ends
        for name in {*names(self.models)} - {*map(model_of, parts)}:
            (self.models / name).unlink()
        if troubles:
            raise StoreError("; ".join(troubles))

    def _update_model(self, name: str, parts: Parts) -> None:
        link, target = self.models / name, Path(".parts", _digest(parts))
        if link.is_dir() and link.readlink() == target:
            return
        shutil.rmtree(self._new, ignore_errors=True)  # an interrupted process may have left files here
        self._new.mkdir()
        for part in parts:
            if not is_version(part):
                self._add(part, parts[part])
        versions = sorted(filter(is_version, parts), key=lambda part: int(part.rpartition("/")[2]), reverse=True)
        kept = set(versions[: self._num_versions + 1] if self._num_versions else versions)
        with contextlib.suppress(ModelRepositoryError):  # the server reports a promoted.toml that is not valid
            if (choice := promotion(self._new)) is not None:
                kept |= {f"{name}/{choice.version}"} & {*versions}
        for part in kept:
            self._add(part, parts[part])
        shutil.rmtree(self.models / target, ignore_errors=True)  # an earlier update may have left this folder
        (self._new / ".link").symlink_to(target)
        self._new.rename(self.models / target)
        (self.models / target / ".link").replace(link)

    def _add(self, part: str, files: list[StoredFile]) -> None:
        """Link to a part in .parts. If the part is not there yet, fetch it first."""
        place, link = self._parts / _digest(files), self._new / part.partition("/")[2]
        if not place.exists():
            size = sum(file.size for file in files)
            self._make_room(size)
            for file in files:
                self._store.fetch(file, self._new / file.path.partition("/")[2])
            link.rename(place)
            self._report(part, size)
        link.symlink_to(Path("..", place.name))

    def _make_room(self, size: int) -> None:
        """Remove parts that no model needs, oldest first, until `size` bytes are free."""
        self._free -= size
        if self._free >= 0:
            return
        folders = [self.models, self._new, *(self.models / name for name in names(self.models))]
        used = {link.readlink().name for folder in folders for link in folder.iterdir() if link.is_symlink()}
        sizes = {part: sum(file.lstat().st_size for file in (part, *part.rglob("*"))) for part in self._parts.iterdir()}
        total = sum(sizes.values()) + size
        for part in sorted(sizes, key=lambda part: part.lstat().st_mtime):
            if total > self._most and part.name not in used and part != self._new:
                total -= sizes[part]
                if part.is_dir():
                    shutil.rmtree(part)
                else:
                    part.unlink()
        self._free = self._most - total
        if self._free < 0:
            raise StoreError(
                f"the model cache is limited to {self._most >> 20:,} MiB, and the versions in use leave no room for "
                f"{size / 2**20:,.1f} MiB: raise --model-cache-mib, or remove versions from the store"
            )


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
