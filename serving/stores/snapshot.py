"""Reads the content of a store from its index or its listing, and fetches files and checks them.

The index is the file hangtag-index.json in the store, which contains each file's size and SHA-256. 'hangtag models
push' writes the index after all other files, so a push becomes visible as a whole or not at all. Because of the index,
a web server, which cannot list files, can be a store. If a store has no index, for example after 'aws s3 cp', the
store's listing is used, which has only each file's size and ETag. An ETag must never be compared with a file's MD5,
because the ETag of an object that is encrypted with a customer's key looks like an MD5 but is not one.
"""

import hashlib
import json
import os
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hangtag.extras import needs
from hangtag.serving.model_repository import MODEL_FILE, is_model_name
from hangtag.serving.stores.location import StoreError, explained, object_store, shown

INDEX = "hangtag-index.json"
_SCHEMES = ("s3", "gs", "az", "https", "oci")
_EXPECTED = "s3://, gs://, az://, https:// or oci://"
_FORMAT = 1
_LARGEST_INDEX = 64 << 20  # the largest index that is read, in bytes
_CHUNK = 1 << 20
_SHA256 = re.compile("[0-9a-f]{64}")

Parts = dict[str, list["StoredFile"]]
"""The files of a model. The key is the number of a version, or the name of a file that all versions share."""


class NoIndexError(StoreError):
    """The store has no index and cannot list its files."""


@dataclass(frozen=True)
class StoredFile:
    """A file in a store.

    Attributes:
        path: The path relative to the store's URL.
        size: The size in bytes.
        sha256: The SHA-256 from an index; empty without an index.
        tag: The ETag, or the time of the last write.
    """

    path: str
    size: int
    sha256: str = ""
    tag: str = ""

    @property
    def identity(self) -> list[str | int]:
        """A value that differs for every other content of this path."""
        return [self.inside, self.size, self.sha256 or self.tag]

    @property
    def inside(self) -> str:
        """The path inside a version's folder, or the file's name if all versions share the file."""
        _, part, *inside = self.path.split("/")
        return "/".join(inside) or part


@dataclass(frozen=True)
class Snapshot:
    """The content of a store at one time. ``condition`` is the condition for writing the index (obstore's PutMode)."""

    files: Mapping[str, StoredFile] = field(default_factory=dict)
    indexed: bool = False
    condition: Any = "create"

    @property
    def digest(self) -> str:
        """The digest of the store's content."""
        return _digest([[path, *self.files[path].identity] for path in sorted(self.files)])

    def models(self) -> dict[str, Parts]:
        """Return the files by model and part. A version without model.onnx is incomplete, so it is left out."""
        models: dict[str, Parts] = {}
        for path, file in sorted(self.files.items()):
            if is_stored_path(path):
                name, part, *_ = path.split("/")
                models.setdefault(name, {}).setdefault(part, []).append(file)
        for parts in models.values():
            for part in [part for part in parts if is_version(part)]:
                if not any(file.inside == MODEL_FILE for file in parts[part]):
                    del parts[part]
        return {name: parts for name, parts in models.items() if parts}


class Store:
    """An open object store or web server."""

    index = INDEX
    """The name of the object that lists the store's files."""

    def __init__(self, url: str, silent_seconds: float) -> None:
        """Open the store, without sending anything. The arguments and errors are as in ``object_store``."""
        self.url = url
        self.name = shown(url)
        self._silent_seconds = silent_seconds
        self.opened = self._connect()
        config: Mapping[str, Any] = getattr(self.opened, "config", {})
        self.place = [value for key, value in sorted(config.items()) if key in ("endpoint", "account_name")]
        """The parts of the store's address that come from the environment and not from the URL."""
        self.stopping = threading.Event()
        """An event that ends a fetch early."""
        self._last = Snapshot()
        self._last_tag: str | None = None
        self._is_web = url.startswith("https:")

    def read(self) -> Snapshot:
        """Read the index, or list the files if there is no index.

        Raises:
            StoreError: The store does not answer, has an invalid index, or has no index and cannot list files.
        """
        import obstore
        from obstore.exceptions import NotModifiedError

        options: Any = {"if_none_match": self._last_tag} if self._last_tag else {}
        with explained(self.url):
            try:
                answer = obstore.get(self.opened, self.index, options=options)
            except NotModifiedError:
                return self._last
            except FileNotFoundError:
                return self._list()
            content = bytearray()
            for chunk in answer.stream(min_chunk_size=_CHUNK):
                content += chunk
                if len(content) > _LARGEST_INDEX:
                    raise StoreError(f"{self.name}/{self.index} has more than {_LARGEST_INDEX:,} bytes")
            meta = answer.meta
        known = {key: meta[key] for key in ("e_tag", "version") if meta[key] is not None}
        files = self._parse(bytes(content), meta["e_tag"] or "")
        self._last = Snapshot(files, True, known if "e_tag" in known else "overwrite")
        self._last_tag = meta["e_tag"]
        return self._last

    def fetch(self, file: StoredFile, target: Path) -> None:
        """Fetch a file to a local path. The path exists only after the whole file is fetched and checked.

        Raises:
            StoreError: The store does not answer or sends other content, or the local file cannot be written.
        """
        import obstore

        options: Any = {"if_match": file.tag} if file.tag.startswith('"') else {}
        part = target.parent / ".part"
        digest, size = hashlib.sha256(), 0
        with explained(self.url):
            target.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as opened:
                for chunk in obstore.get(self.opened, self._key(file), options=options).stream(min_chunk_size=_CHUNK):
                    size += len(chunk)
                    if size > file.size or self.stopping.is_set():
                        break
                    digest.update(chunk)
                    opened.write(chunk)
                opened.flush()
                os.fsync(opened.fileno())
            if size != file.size or file.sha256 not in ("", digest.hexdigest()):
                raise StoreError(f"{self.name}/{file.path} does not match the store's index or listing")
            part.replace(target)

    def write(self, file: StoredFile, source: Path) -> None:
        """Write a local file to the store. Servers do not see the file before ``publish``. Raises StoreError."""
        import obstore

        with explained(self.url):
            obstore.put(self.opened, file.path, source, use_multipart=False if self._is_web else None)

    def publish(self, files: Sequence[StoredFile], before: Snapshot) -> int:
        """Write an index of these files, which are already in the store. Returns the index's size in bytes.

        Raises StoreError, also if the store's content is no longer ``before``.
        """
        import obstore

        listed = [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in files]
        content = json.dumps({"format": _FORMAT, "files": listed}, indent=1).encode()
        with explained(self.url):
            obstore.put(self.opened, INDEX, content, mode="overwrite" if self._is_web else before.condition)
        return len(content)

    def _connect(self) -> Any:
        return object_store(self.url, self._silent_seconds)

    def _key(self, file: StoredFile) -> str:
        """Return the name of the object that has a file's content."""
        return file.path

    def _list(self) -> Snapshot:
        """Read the listing. Raises NoIndexError for https:, and obstore's exception if the listing is cut off."""
        import obstore

        if self._is_web:
            raise NoIndexError(
                f"{self.name} has no {INDEX}, which 'hangtag models push' writes. A web server needs this file, "
                "because it does not list files"
            )
        listed = obstore.list(self.opened).collect()
        files = {
            each["path"]: StoredFile(each["path"], each["size"], tag=each["e_tag"] or each["last_modified"].isoformat())
            for each in listed
        }
        return Snapshot(files)

    def _parse(self, content: bytes, tag: str) -> dict[str, StoredFile]:
        """Return the files of an index. ``tag`` is the index's ETag, or empty. Raises StoreError."""
        try:
            files = self._listed(content, tag)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
            lacking = "is not an index: it was cut off, or another program wrote it"
            raise StoreError(f"{self.name}/{self.index} {lacking}") from None
        return {file.path: file for file in files if _SHA256.fullmatch(file.sha256)}

    def _listed(self, content: bytes, tag: str) -> list[StoredFile]:
        document = json.loads(content)
        if document["format"] != _FORMAT:
            raise StoreError(
                f"{self.name}/{INDEX} has another format than {_FORMAT}, so another version of hangtag wrote it"
            )
        return [StoredFile(str(one["path"]), int(one["size"]), str(one["sha256"])) for one in document["files"]]


def open_store(url: str, silent_seconds: float = 20.0) -> Store:
    """Open the store of a URL: oci://REGISTRY/REPOSITORY:TAG, or a URL for ``object_store``, which lists the errors."""
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.netloc:
        raise StoreError(f"{shown(url)} is not a model store: expected {_EXPECTED} with a name and a path")
    if parts.scheme != "oci":
        return Store(url, silent_seconds)
    with needs("stores", "a registry of models"):  # imported here, because other stores need no HTTP client
        from hangtag.serving.stores.registry import Registry
    return Registry(url, silent_seconds)


def digest_of(files: Sequence[StoredFile]) -> str:
    """Compute a digest of a version's files that does not depend on the model's name and the version's number."""
    return _digest([file.identity for file in files])


def _digest(identities: object) -> str:
    return hashlib.sha256(json.dumps(identities).encode()).hexdigest()


def is_version(part: str) -> bool:
    """Return whether a name inside a model's folder names a version."""
    return part.isascii() and part.isdecimal() and not part.startswith("0")


def is_stored_path(path: str) -> bool:
    """Return whether a path is NAME/FILE or NAME/VERSION/…, without hidden parts and without ``..``."""
    name, *inside = path.split("/")
    if not is_model_name(name) or not inside:
        return False
    safe = all(0 < len(one) < 256 and one.isprintable() and one[0] != "." and "\\" not in one for one in inside)
    return safe and is_version(inside[0]) == (len(inside) > 1)
