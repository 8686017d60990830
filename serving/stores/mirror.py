"""Mirrors a model repository in a store to a local folder, which servers serve like any other repository.

    <cache>/<store>-<digest>/
        models/                     a model repository
            <name>/<version>        a link to a folder in .parts
            <name>/<file>           a link to a file in such a folder: serving.toml, promoted.toml, route.toml
            .parts/<digest>/        a whole version, or one of these files, named by the digest of its content
            .new/                   a version or file that is being fetched
        complete                    exists if the folder was equal to the store; has the digest of the store's content
        lock                        locked by the process that changes the folder; other processes only serve the folder

When all new files of a model are fetched and checked, the model is changed by one rename for each link. All links stay
inside the repository, as model_repository.require_inside demands. Files that no link names stay until their space is
needed.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hangtag.serving.model_repository import PROMOTION_FILE, ModelRepositoryError, names, promotion
from hangtag.serving.stores.location import StoreAwayError, StoreError, explained
from hangtag.serving.stores.snapshot import Parts, Snapshot, StoredFile, digest_of, is_version, open_store

Report = Callable[[str, int], object]
"""A function that receives the name of a written version or file, such as cnn/1, and the size in bytes."""


class Mirror:
    """The local copy of a store. The attribute ``models`` is the model repository to serve.

    Example:
        mirror = Mirror("s3://bucket/models", None, report=print)
        mirror.prepare()
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
            silent_seconds: See ``open_store``.
            report: A function that is called for each fetched version, and for each fetched file that versions share.

        Raises:
            StoreError: The URL cannot be used, or the cache cannot be written.
        """
        self.store = open_store(url, silent_seconds)
        self._most = most_mib << 20
        self._num_versions = num_versions
        self._report = report
        cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hangtag" / "models"
        slug = re.sub(r"\W+", "-", self.store.name)[:60]
        identity = f"{self.store.name} {self.store.place} {num_versions}"
        self.folder = cache / f"{slug}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
        self.models = self.folder / "models"
        """The folder of the model repository."""
        self._complete = self.folder / "complete"
        self._parts = self.models / ".parts"
        self._new = self.models / ".new"
        with explained(url):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._parts.mkdir(parents=True, exist_ok=True)

    def prepare(self) -> str:
        """Update the folder from the store, before the folder is read for the first time.

        Returns:
            The reason why the folder, or a part of it, could not be updated. The text is empty if the folder was
            updated, or if another process is updating the folder.

        Raises:
            StoreError: The folder could not be updated, and was never equal to the store.
        """
        was_complete = self._complete.exists()
        trouble = self.refresh(wait=not was_complete) or ""
        if trouble and not was_complete:
            raise StoreError(f"{trouble}. {self.folder} has no complete earlier copy, so nothing can be served.")
        return trouble

    def refresh(self, *, wait: bool = False) -> str | None:
        """Update the folder from the store now.

        Args:
            wait: Whether to wait if another process is updating the folder, and then update. If False, this call does
                nothing while another process is updating the folder.

        Returns:
            The reason why the folder, or a part of it, could not be updated. The text is empty if the folder was
            updated. The result is None if another process is updating the folder.
        """
        try:
            with explained(self.store.url), self._locked(wait) as locked:
                if not locked:
                    return None
                snapshot = self.store.read()
                if self._complete.exists():
                    if self._complete.read_text() == snapshot.digest:
                        return ""
                    self._complete.write_text("")  # an interruption after this line may leave the folder incomplete
                trouble = self._update(snapshot)
                if not trouble:
                    self._complete.write_text(snapshot.digest)
                return trouble
        except StoreError as error:
            return str(error)

    def _update(self, snapshot: Snapshot) -> str:
        """Update the models that differ. Returns the models that failed, with reasons.

        Raises StoreError if nothing can be updated.
        """
        stored, local = snapshot.models(), names(self.models)
        if not stored:
            lost = (
                f", so none of the {len(local)} local models is removed"
                if local
                else ". Push models with 'hangtag models push'"
            )
            raise StoreError(f"{self.store.name} has no models{lost}")
        troubles = []
        for name, parts in stored.items():
            try:
                with explained(self.store.url):
                    self._update_model(name, parts)
            except StoreAwayError:
                raise
            except StoreError as error:
                troubles.append(f"{name}: {error}")
        for name in set(local) - set(stored):
            self._remove_others(name, {})
        return "; ".join(troubles)

    def _update_model(self, name: str, parts: Parts) -> None:
        shared = {part: self._fetch(name, part, files) for part, files in parts.items() if not is_version(part)}
        promoted = None
        if PROMOTION_FILE in shared:
            with contextlib.suppress(ModelRepositoryError):  # the server reports a file that is not valid
                promoted = promotion(shared[PROMOTION_FILE])
        versions = sorted((int(part) for part in parts if is_version(part)), reverse=True)
        kept = set(versions[: self._num_versions + 1] if self._num_versions else versions)
        if promoted is not None:
            kept |= {promoted.version} & set(versions)
        places = {str(version): self._fetch(name, str(version), parts[str(version)]) for version in kept}
        # Versions are linked before shared files, so that promoted.toml never names a missing version.
        places |= {part: folder / part for part, folder in shared.items()}
        (self.models / name).mkdir(exist_ok=True)
        for part, place in places.items():
            link, target = self.models / name / part, Path("..", place.relative_to(self.models))
            if not link.is_symlink() or link.readlink() != target:
                new = link.parent / ".link"
                new.unlink(missing_ok=True)
                new.symlink_to(target)
                new.replace(link)
        self._remove_others(name, places)

    def _fetch(self, name: str, part: str, files: list[StoredFile]) -> Path:
        """Return the folder with these files. The files are fetched unless the folder already exists."""
        folder = self._parts / digest_of(files)
        if folder.is_dir():
            os.utime(folder)  # _make_room removes the folders with the oldest times first
            return folder
        size = sum(file.size for file in files)
        self._make_room(size)
        shutil.rmtree(self._new, ignore_errors=True)  # an interrupted fetch leaves files here
        for file in files:
            self.store.fetch(file, self._new / file.inside)
        self._new.rename(folder)
        self._report(f"{name}/{part}", size)
        return folder

    def _make_room(self, size: int) -> None:
        """Remove folders that no link names, from the longest unused folder on, until `size` bytes are free."""
        links = [link for name in names(self.models) for link in (self.models / name).iterdir()]
        used = {link.readlink().parts[2] for link in links}  # a link leads to ../.parts/<digest>
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

    def _remove_others(self, name: str, kept: Mapping[str, Path]) -> None:
        """Remove a model's links except ``kept``; if no link is kept, remove the model's folder too."""
        for link in (self.models / name).iterdir():
            if link.name not in kept:
                link.unlink()
        if not kept:
            (self.models / name).rmdir()

    @contextlib.contextmanager
    def _locked(self, wait: bool) -> Iterator[bool]:
        """Hold the folder's lock in this context. Yields whether this process got the lock."""
        with (self.folder / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True


def _size(folder: Path) -> int:
    return sum(Path(place, name).stat().st_size for place, _, files in os.walk(folder) for name in files)
