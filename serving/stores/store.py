"""A model repository in an object store or on a web server: its files, from an index or a listing, and their content.

The index is the file hangtag-index.json in the store, which contains each file's size and SHA-256. 'hangtag models
push' writes the index after all other files, so a push becomes visible as a whole or not at all. With an index, even a
web server, which cannot list files, can be a store. If a store has no index, for example after 'aws s3 cp', the store's
listing is used, which has only each file's size and ETag. An ETag must never be compared with a file's MD5, because the
ETag of an object that is encrypted with a customer's key looks like an MD5 but is not one.

Logs and messages never contain credentials: URLs are shown without parts that may be credentials. The messages of
obstore's errors are not shown, because such a message may quote URLs and answers of the store.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from hangtag.errors import UserError
from hangtag.extras import needs
from hangtag.serving.model_repository import MODEL_FILE, is_model_name, require_inside

INDEX = "hangtag-index.json"
_FORMAT = 1
_LARGEST_INDEX = 64 << 20  # bytes
_SHA256 = "sha256:"
_TAG = re.compile(rf"{_SHA256}[0-9a-f]{{64}}")
_VERSION, _FILE = r"[1-9][0-9]*", r"[^./\\][^/\\]{0,254}"
_STORED_PATH = re.compile(rf"[^/]+/(?:{_VERSION}(?:/{_FILE})+|(?!{_VERSION}$){_FILE})")
_SECRETS = re.compile(r"(?<=://)(?:[^/]*@|[^/:]*:(?!\d*/).*@)|[?#].*", re.DOTALL)
"""The parts of a URL that may be secret. The expression also matches invalid URLs with a / or ? in the password."""
_REASONS = {
    r"PermissionDenied|Unauthenticated|status code: 40[13]": "the store refuses the credentials, or there are none",
    r"NoSuchBucket|ContainerNotFound|\bNotFound \{": "there is no such bucket",
    r"\b(Precondition|AlreadyExists) \{": "a file was changed at the same time; try again",
    r"status code: (\d{3}(?: [A-Z][A-Za-z]+)*)": r"the store answers \1",
    "(?i)certificate": "this machine does not trust the store's certificate (SSL_CERT_FILE can name more authorities)",
    "(?i)dns error|name resolution": "the host name is unknown",
    "(?i)timed ?out|kind: Timeout": "the store did not answer in time",
    "kind: Connect": "no server answers at this address",
    "kind: (Request|Interrupted|Decode)": "the connection was cut",
}


class StoreError(UserError):
    """A store cannot be read or written, or the store's content is not valid."""


class StoredFile(NamedTuple):
    """A file in a store. The path is relative to the store's URL, and the size is in bytes."""

    path: str
    size: int
    tag: str  # ``sha256:DIGEST`` if an index gives the digest, otherwise the ETag or the time of the last write


Parts = dict[str, list[StoredFile]]
"""Part -> its files. A part is a version (NAME/VERSION), or a file that all versions of a model share (NAME/FILE)."""


class Store:
    """An open store. The methods raise obstore's errors, which ``explained`` turns into StoreError."""

    def __init__(self, url: str, silent_seconds: float = 20.0) -> None:
        """Open s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH, or https://HOST/PATH, without sending anything.

        obstore reads credentials from the environment, from files and from the machine's metadata service.

        Args:
            url: The URL, which may contain credentials.
            silent_seconds: The seconds without data after which a request fails.

        Raises:
            StoreError: The URL cannot be used.
            MissingExtraError: The extra ``stores`` is not installed.
        """
        self.name = shown(url)
        if not re.match("(s3|gs|az|https)://[^/]", url):
            raise StoreError(
                f"{self.name} is not a model store: expected s3://, gs://, az:// or https:// with a name and a path"
            )
        allowed = any(os.environ.get(f"{cloud}_ALLOW_HTTP") == "true" for cloud in ("AWS", "GOOGLE"))
        with explained(url), needs("stores", "a model store"):
            from obstore import exceptions, store

            self._errors = exceptions
            self._opened: Any = store.from_url(
                url,
                client_options={
                    "allow_http": allowed,
                    "connect_timeout": timedelta(seconds=min(5.0, silent_seconds)),
                    "read_timeout": timedelta(seconds=silent_seconds),
                    "timeout": timedelta(hours=1),
                },
                retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=3 * silent_seconds)},
            )
        self._is_web = url.startswith("https:")
        self.index: dict[str, str] | None = None
        """The ETag and the version of the index, as obstore's PutMode expects them; None if ``read`` found no index."""
        self._parts: Parts = {}
        pattern = "(AWS|AZURE|GOOGLE)_.*(ACCOUNT_NAME|ENDPOINT)"
        self.identity = [self.name, *(os.environ[key] for key in sorted(os.environ) if re.match(pattern, key))]
        """The values from the URL and from the environment that identify this store."""

    def read(self, *, may_be_empty: bool = False) -> Parts:
        """Return the files in the index, which is read again if it has changed, or list the files if there is no index.

        Raises StoreError if the index is not valid, or if the store has no model and ``may_be_empty`` is false.
        """
        options = {"if_none_match": self.index["e_tag"]} if self.index and "e_tag" in self.index else {}
        with contextlib.suppress(self._errors.NotModifiedError):
            try:
                answer = self._opened.get(INDEX, options=options)
                self._parts = _parts_of(self._parse(answer))
                self.index = {key: answer.meta[key] for key in ("e_tag", "version") if answer.meta[key] is not None}
            except FileNotFoundError:
                listed = [] if self._is_web else self._opened.list().collect()
                self._parts = _parts_of(
                    StoredFile(each["path"], each["size"], each["e_tag"] or str(each["last_modified"]))
                    for each in listed
                )
                self.index = None
        if not self._parts and not may_be_empty:
            raise StoreError(
                f"{self.name} has no models, so no local model is removed. 'hangtag models push' writes models and "
                f"{INDEX}, without which a web server cannot be a store"
            )
        return self._parts

    def fetch(self, file: StoredFile, target: Path) -> None:
        """Fetch a file to a local path. The file is not complete if this method raises an error.

        Raises StoreError if the store does not have the content that its index or listing promises.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with target.open("wb") as opened:
            try:
                answer = self._opened.get(file.path, options={"if_match": file.tag} if file.tag[0] == '"' else {})
                is_right = answer.meta["size"] == file.size
                for chunk in answer if is_right else ():
                    digest.update(chunk)
                    opened.write(chunk)
            except (FileNotFoundError, self._errors.PreconditionError):
                is_right = False
            opened.flush()
            os.fsync(opened.fileno())
        if not is_right or (file.tag.startswith(_SHA256) and file.tag != _SHA256 + digest.hexdigest()):
            raise StoreError(f"{self.name}/{file.path} does not match the store's index or listing")

    def write(self, file: StoredFile, source: Path) -> None:
        """Write a local file to the store. Servers do not see the file before ``publish``."""
        self._opened.put(file.path, source, use_multipart=False if self._is_web else None)

    def publish(self, files: Iterable[StoredFile]) -> int:
        """Write an index of these files, which are already in the store. Returns the index's size in bytes.

        An object store refuses the new index if its own index has changed since ``read``.
        """
        listed = [{"path": file.path, "size": file.size, "sha256": file.tag.removeprefix(_SHA256)} for file in files]
        content = json.dumps({"format": _FORMAT, "files": listed}, indent=1).encode()
        is_unconditional = self._is_web or self.index == {}  # without an ETag there is nothing to compare
        self._opened.put(INDEX, content, mode="overwrite" if is_unconditional else self.index or "create")
        return len(content)

    def _parse(self, answer: Any) -> list[StoredFile]:
        if answer.meta["size"] > _LARGEST_INDEX:
            raise StoreError(f"{self.name}/{INDEX} has more than {_LARGEST_INDEX:,} bytes")
        with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError, RecursionError):
            document = json.loads(bytes(answer.bytes()))
            files = [
                StoredFile(str(each["path"]), int(each["size"]), f"{_SHA256}{each['sha256']}")
                for each in document["files"]
            ]
            if document["format"] == _FORMAT and all(_TAG.fullmatch(file.tag) for file in files):
                return files
        problem = f"is not an index of format {_FORMAT}: it was cut off, or another version of hangtag wrote it"
        raise StoreError(f"{self.name}/{INDEX} {problem}")


def local_parts(root: Path, models: Iterable[str]) -> Parts:
    """Return the files of these models in a local repository. Raises ModelRepositoryError if a file is a link that
    leads out of the repository."""
    files = []
    for name in models:
        for folder, _, inside in os.walk(root / name, followlinks=True):
            for file in (Path(folder, each) for each in inside):
                path = file.relative_to(root).as_posix()
                if _is_stored(path):
                    require_inside(file, root / name)
                    with file.open("rb") as opened:
                        digest = hashlib.file_digest(opened, "sha256").hexdigest()
                    files.append(StoredFile(path, file.stat().st_size, _SHA256 + digest))
    return _parts_of(files)


def _parts_of(files: Iterable[StoredFile]) -> Parts:
    """Group a repository's files by part. Versions without model.onnx are incomplete, so they are left out."""
    stored = sorted(file for file in files if _is_stored(file.path))
    paths = {file.path for file in stored}
    parts: Parts = {}
    for file in stored:
        part = "/".join(file.path.split("/")[:2])
        if not is_version(part) or f"{part}/{MODEL_FILE}" in paths:
            parts.setdefault(part, []).append(file)
    return parts


def model_of(path: str) -> str:
    """Return the model's name, with which the path of each part and of each file begins."""
    return path.partition("/")[0]


def is_version(part: str) -> bool:
    """Return whether a part is a version; otherwise, it is a file that all versions of a model share."""
    return re.fullmatch(_VERSION, part.rpartition("/")[2]) is not None


def _is_stored(path: str) -> bool:
    """Return whether a path is NAME/FILE or NAME/VERSION/…, without hidden parts and without ``..``."""
    return is_model_name(model_of(path)) and path.isprintable() and _STORED_PATH.fullmatch(path) is not None


def shown(url: str) -> str:
    """Return the URL for logs and messages, without parts that may be a password or a signature."""
    return _SECRETS.sub("", url).rstrip("/")


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn errors of obstore and of local files into a StoreError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        is_local = isinstance(error, OSError) and error.errno is not None
        reason = f"a local file cannot be read or written: {error}" if is_local else f"{shown(url)}: {_reason(error)}"
    else:
        return
    raise StoreError(reason)  # not in the except block, where Python would attach an error that may quote credentials


def _reason(error: Exception) -> str:
    text = f"{type(error).__name__} {error}"
    matches = ((re.search(pattern, text), reason) for pattern, reason in _REASONS.items())
    return next((match.expand(reason) for match, reason in matches if match), f"the call failed ({text.split()[0]})")
