"""Bearer tokens from a file, compared byte for byte in constant time, and read again when the file changes."""

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from hangtag.serving.server.errors import StartError, UnauthenticatedError
from hangtag.serving.server.host.watched_files import WatchedFiles, read_bytes

Metadata = Iterable[tuple[str, str | bytes]]
Authorise = Callable[[Metadata], None]
"""Takes a call's metadata and raises UnauthenticatedError if the call has no valid credentials. It must be thread-safe
and must not block, because the thread that polls for calls runs it."""

MIN_LENGTH = 16
"""Characters of a token."""
_CREDENTIALS = re.compile("bearer +(.*)", re.IGNORECASE | re.DOTALL)
"""RFC 9110, 11.4: the scheme in letters of either case, one space or more, and the token, which is all that follows."""


class Tokens:
    """The valid tokens: those of one file, one per line, so that an old and a new one can be valid at the same time.

    Lines that begin with # are comments. With an empty file no token is valid. If the file disappears or becomes
    malformed, the tokens that were read last stay valid.
    """

    def __init__(self, path: Path, check_seconds: float) -> None:
        """Read the file.

        Args:
            path: The file's.
            check_seconds: Least seconds between two checks whether it has changed.

        Raises:
            StartError: It cannot be read, or a line is not a token.
        """
        self._digests = WatchedFiles("tokens", [path], lambda: _read(path), check_seconds)

    def authorise(self, metadata: Metadata) -> None:
        """Raises UnauthenticatedError unless the metadata has ``authorization: Bearer <a valid token>``."""
        header = next((value for key, value in metadata if key == "authorization"), None)
        credentials = _CREDENTIALS.fullmatch(header) if isinstance(header, str) else None
        if credentials is None:
            raise UnauthenticatedError(
                "this server requires a token: send 'authorization: Bearer <token>' with each call, in gRPC's metadata "
                "or HTTP's headers (--token-file of hangtag's commands)"
            )
        # All digests have one length, and each is compared, so the time taken reveals nothing about the valid tokens.
        digest = _digest(credentials[1].encode(errors="surrogatepass"))
        if not sum([hmac.compare_digest(digest, known) for known in self._digests.current()]):
            raise UnauthenticatedError("the token is not valid here; its operator can give you one")


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
