"""The transports of a server share an intake, which counts requests that fail before they reach a model, and checks
callers. With a token file, only callers with a bearer token from the file may call.

Tokens are compared byte for byte in constant time. The token file is read again when it changes.
"""

import asyncio
import hashlib
import hmac
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.servable import Control, Servable
from hangtag.serving.server.errors import (
    STOPPING,
    MessageTooLargeError,
    NotLoadedError,
    QueueFullError,
    StartError,
    UnauthenticatedError,
    UnavailableError,
)
from hangtag.serving.server.host.machine import usable_cpus
from hangtag.serving.server.host.watched_files import WatchedFiles, read_bytes
from hangtag.serving.server.wire.model_queries import RepositoryCalls
from hangtag.serving.server.wire.status import status
from hangtag.serving.server.wire.tracing import Metadata, Tracing

MIN_LENGTH = 16
"""The minimum length of a token, in characters."""
_CREDENTIALS = re.compile("bearer +(.*)", re.IGNORECASE | re.DOTALL)
"""RFC 9110, 11.4: the scheme in upper or lower case, one or more spaces, then the token, up to the end."""


class Origin(NamedTuple):
    """What a transport knows about a call before it has read a request. A stream's call may have several requests."""

    method: str
    """/package.Service/Method, or an HTTP method and its route; empty if no model is called."""
    metadata: Metadata = ()
    """The metadata that the caller sent. A trace may continue from the key ``traceparent``, and a split may choose a
    member by a sticky key."""
    deadline: float | None = None
    """The deadline in seconds on the monotonic clock; None if the caller waits for ever."""


class Intake:
    """The engine that all transports of a server share, and the checks before a request reaches the engine. All methods
    except `model` are thread-safe.

    The token file has one token per line, so that an old and a new token can both be valid. Lines that start with # are
    comments. With an empty file no token is valid. If the file disappears or becomes malformed, the tokens that were
    last read stay valid.
    """

    def __init__(self, engine: Engine, control: Control) -> None:
        """Read the tokens and prepare tracing. ``control`` controls and describes the models of all workers. Raises
        StartError if the tokens are invalid, and MissingExtraError if packages for tracing are not installed."""
        config, limits = engine.config, engine.config.limits
        self.engine = engine
        self.repository = RepositoryCalls(control)
        self.decoding_places = threading.Semaphore(config.max_queue_size)
        """A request has a place while it waits for a decoding thread, which limits the memory of these requests. A
        model's queue holds only decoded requests."""
        self.decoding_threads = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="decode")
        """The threads that decode pictures and large messages, which would block the threads that receive calls."""
        self.threads_for_large = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="decode-large")
        """The threads that decode large pictures, which take long and wait for memory. Other requests do not wait for
        these threads."""
        self._digests: WatchedFiles[tuple[bytes, ...]] | None = None
        if (file := config.token_file) is not None:
            self._digests = WatchedFiles("tokens", [file], lambda: _read(file), limits.file_check_seconds)
        self.stopping = False
        """Whether every new query of a model is refused."""
        self.all_admitted = self._digests is None
        """Whether every request is admitted without a check."""
        self.tracing: Tracing | None = None
        """The tracing, which records a span for each query; None to record no spans."""
        if config.otlp_endpoint:
            self.tracing = Tracing(config.otlp_endpoint, limits.trace_close_seconds)
        self.max_message_bytes = config.max_message_mib << 20
        """The maximum size of a request and of an answer in bytes."""

    def close(self) -> None:
        """Drop work that waits for a decoding thread, end the threads, and send the remaining spans."""
        self.decoding_threads.shutdown(cancel_futures=True)
        self.threads_for_large.shutdown(cancel_futures=True)
        self.repository.close()
        if self.tracing is not None:
            self.tracing.close()

    def admit(self, metadata: Metadata, *, queries: bool = True) -> None:
        """Check a call, unless it is a health check. Raise UnauthenticatedError unless the metadata has
        ``authorization: Bearer <a valid token>``, and UnavailableError if the call queries a model during a stop.

        This method must not block, because the thread that polls for calls runs it.
        """
        if self._digests is not None:
            header = next((value for key, value in metadata if key == "authorization"), None)
            credentials = _CREDENTIALS.fullmatch(header) if isinstance(header, str) else None
            if credentials is None:
                raise UnauthenticatedError(
                    "this server requires a token: send 'authorization: Bearer <token>' with each call, in gRPC's "
                    "metadata or HTTP's headers (--token-file of hangtag's commands)"
                )
            digest = _digest(credentials[1].encode(errors="surrogatepass"))
            # All digests have one length, and each is compared, so the time taken reveals nothing about valid tokens.
            if not sum([hmac.compare_digest(digest, known) for known in self._digests.current()]):
                raise UnauthenticatedError(
                    "the server does not accept this token; ask the server's operator for a valid token"
                )
        if self.stopping and queries:
            raise UnavailableError(STOPPING)

    def refuse_new(self) -> None:
        """Admit no further query. Queries in flight are still answered."""
        self.stopping, self.all_admitted = True, False

    async def model(self, name: str, version: str = "") -> Servable:
        """Return the model that takes requests for a name and version, after loading it if necessary. Raises the errors
        of `Engine.model` and of the load."""
        while True:
            try:
                return self.engine.model(name, version)
            except NotLoadedError:
                await asyncio.shield(asyncio.wrap_future(self.engine.residency.load(name)))

    def require_size(self, direction: str, size: int) -> None:
        """Raise MessageTooLargeError, worded like gRPC's core, if a message of this many bytes is over the limit. The
        direction is "Sent" or "Received"."""
        limit = self.max_message_bytes
        if size > limit:
            raise MessageTooLargeError(f"SERVER: {direction} message larger than max ({size} vs. {limit})")

    def record_failure(
        self, origin: Origin, error: Exception, started: int | None = None, name: str = "", version: str = ""
    ) -> None:
        """Count a failed request under its status code, and record its span. All transports count failures only here.

        ``started`` is when the request arrived, by time.perf_counter_ns, or None for now. The name and the version are
        those in the request, or empty if the request was refused before it was read.
        """
        code = status(error).grpc
        ns = 0 if started is None else time.perf_counter_ns() - started
        self.engine.record_failure(name, version, code.name, ns, shed=isinstance(error, QueueFullError))
        if self.tracing is not None and origin.method:
            self.tracing.record(origin.method, origin.metadata, ns, code)


def _read(path: Path) -> tuple[bytes, ...]:
    lines = [line.strip() for line in read_bytes(path, "--token-file").splitlines()]
    tokens = [line for line in lines if line and not line.startswith(b"#")]
    for number, token in enumerate(tokens, 1):
        if len(token) < MIN_LENGTH or len(token.split()) > 1 or not token.isascii():
            raise StartError(
                f"{path} (--token-file): token {number} is too short, or is not a single ASCII word; each line "
                f"needs one token of at least {MIN_LENGTH} characters ('openssl rand -hex 32' makes one)"
            )
    return tuple(_digest(token) for token in tokens)


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
