"""Who may call: bearer tokens from a file, compared in constant time and read again when the file changes."""

import hashlib
import hmac
from collections.abc import Callable, Iterable
from pathlib import Path

from hangtag.serving.server.errors import StartError, UnauthenticatedError
from hangtag.serving.server.host.watched_files import WatchedFiles, read_bytes

Metadata = Iterable[tuple[str, str | bytes]]
Authorise = Callable[[Metadata], None]
"""Given a call's metadata, raises UnauthenticatedError unless the caller may call. Thread-safe, cheap, never blocks."""

MIN_LENGTH = 16
_SCHEME = "bearer "


class Tokens:
    """The tokens of one file, one a line, so that an old and a new one hold while callers change over. Lines that begin
    with # are comments. An empty file lets nobody in; one that is gone or broken leaves the last good ones valid."""

    def __init__(self, path: Path) -> None:
        """Raises StartError when the file cannot be read, or holds what is no token."""
        self._digests = WatchedFiles("tokens", [path], lambda: _read(path))

    def authorise(self, metadata: Metadata) -> None:
        """Raises UnauthenticatedError unless the metadata has ``authorization: Bearer <one of the tokens>``."""
        given = next((value for key, value in metadata if key == "authorization"), None)
        if not isinstance(given, str) or given[: len(_SCHEME)].lower() != _SCHEME:
            raise UnauthenticatedError(
                "this server asks for a token: send the metadata 'authorization: Bearer <token>' (--token-file of "
                "hangtag's commands)"
            )
        # Digests are all of one length, and every one is compared: the time tells nothing about any token.
        digest = _digest(given[len(_SCHEME) :].strip().encode())
        if not sum([hmac.compare_digest(digest, known) for known in self._digests.current()]):
            raise UnauthenticatedError("the token is not valid here; ask whoever runs this server for one")


def _read(path: Path) -> tuple[bytes, ...]:
    lines = [line.strip() for line in read_bytes(path, "--token-file").splitlines()]
    tokens = [line for line in lines if line and not line.startswith(b"#")]
    for number, token in enumerate(tokens, 1):
        if len(token) < MIN_LENGTH or len(token.split()) > 1 or not token.isascii():
            raise StartError(
                f"{path} (--token-file): token {number} is too short or not one word of ASCII; a token has at least "
                f"{MIN_LENGTH} characters, one token a line ('openssl rand -hex 32' makes one)"
            )
    return tuple(_digest(token) for token in tokens)


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
