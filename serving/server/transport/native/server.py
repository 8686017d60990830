"""The native server: ModelInfer and Classify over pygrpc-native, and every other method by a gRPC server behind it.

The library's Rust threads speak HTTP/2 and never hold the interpreter lock. They pass calls of the two methods to
Python as events, and forward every other call over a private Unix socket to a `GrpcServer`.

What the library lacks, and what hangtag does about it: no TLS (a server with TLS uses the grpc transport); no limit on
a message's size before it is read (hangtag refuses it afterwards, and its memory is given back); no limit on the
number of connections (`ConnectionLimit` closes those beyond it), nor on their age and idleness (a proxy has to set it);
no setting for the 20 streams that a connection may reset before they are accepted (`serving/connection/resets.py` keeps
hangtag's clients below it, and docs/operations.md says what others can do).
"""

import os
import tempfile
import time
from pathlib import Path

import structlog
from pygrpc_native import NativeGrpcFront

from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.host.ports import require_free
from hangtag.serving.server.transport.grpc.server import GrpcServer
from hangtag.serving.server.transport.native.calls import METHODS, TIMEOUT_HEADER, NativeCalls
from hangtag.serving.server.transport.native.connection_limit import ConnectionLimit
from hangtag.serving.server.transport.queries.decoding_threads import DecodingThreads
from hangtag.serving.server.transport.security.tokens import Authorise
from hangtag.serving.server.transport.tracing import Tracing

log = structlog.get_logger()

IO_THREADS = 1
"""Threads of the library that do network I/O. One suffices for what two computing threads answer."""
_MAX_METADATA_BYTES = 16 * 1024  # gRPC's core has this limit too
_MAX_SOCKET_PATH = 107  # bytes; Linux' sockaddr_un, less the zero at its end
_POLL_SECONDS = 0.005
_FLUSH_SECONDS = 0.2
"""How long connections stay open after the last response: the library's ``close`` drops responses that its threads have
not written yet, up to one in five where it follows at once, and nothing says when they are written."""


class NativeServer:
    """Listens from ``start`` on; the common interface of the transports is `GrpcServer`'s."""

    def __init__(
        self,
        engine: Engine,
        grpc_server: GrpcServer,
        decoding: DecodingThreads,
        *,
        authorise: Authorise | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """Build the server; it does not listen yet.

        Args:
            engine: Has the models, and the configuration.
            grpc_server: Answers all other methods; started and stopped here.
            decoding: Decode pictures and large messages.
            authorise: Checks every call of the two methods; None lets everybody call.
            tracing: Gets a span for each query; None records none.
        """
        self._engine = engine
        self._grpc_server = grpc_server
        self._calls = NativeCalls(engine, decoding, authorise, tracing)
        self._front: NativeGrpcFront | None = None
        self._connection_limit: ConnectionLimit | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def start(self) -> int:
        """Listen, and return the port.

        Raises:
            StartError: The address is not free or not this machine's, or TMPDIR is too long a path.
        """
        config = self._engine.config
        if config.workers == 1:  # workers share a port that their supervisor has reserved
            require_free(config.host, config.port)  # in one clear line: the library would print another one
        front = NativeGrpcFront(
            config.address(config.port),
            [(method, False) for method in METHODS],
            io_threads=IO_THREADS,
            client_key_metadata=TIMEOUT_HEADER,
            call_details=True,
            keepalive_time_ms=round(config.keepalive_seconds * 1000),
            keepalive_timeout_ms=round(config.limits.peer_seconds * 1000),
            max_concurrent_streams=config.max_concurrent_streams,
            max_metadata_size=_MAX_METADATA_BYTES,
            reuse_port=config.workers > 1,
        )
        self._folder = tempfile.TemporaryDirectory(prefix="hangtag-")  # only this user may enter it
        socket = str(Path(self._folder.name, "grpc.sock"))
        if len(os.fsencode(socket)) > _MAX_SOCKET_PATH:
            self._folder.cleanup()
            raise StartError(
                f"the folder for temporary files has too long a path for a Unix socket ({socket}): set TMPDIR to a "
                "shorter one, or use --transport grpc"
            )
        self._grpc_server.start(f"unix:{socket}")
        front.set_fallback(socket)
        front.start()
        self._front = self._calls.front = front
        self._engine.pool.receive_from(self._calls.receive)
        self._connection_limit = ConnectionLimit(front.bound_port, config.max_connections)
        log.info(
            "the native transport sets no limit on the age and idleness of connections, and reads a message before it "
            "is refused as too large",
            ignored=[
                "--connection-idle-seconds",
                "--connection-age-seconds",
                "--min-ping-seconds",
            ],
        )
        return front.bound_port

    def refresh_health(self) -> None:
        """See `GrpcServer.refresh_health`."""
        self._grpc_server.refresh_health()

    def stop(self, grace: float) -> None:
        """Set health to NOT_SERVING, refuse new calls, and let those in flight finish within ``grace`` seconds."""
        self._calls.refuse_new()
        deadline = time.monotonic() + grace
        self._grpc_server.announce_stop()
        while self._calls.open and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        self._calls.cancel_all()
        self._grpc_server.stop(max(0.0, deadline - time.monotonic()))  # last: until then health says NOT_SERVING
        time.sleep(max(0.0, min(_FLUSH_SECONDS, deadline - time.monotonic())))

    def close(self) -> None:
        """Close the connections. Call it after ``stop`` and after the engine's close."""
        if self._connection_limit is not None:
            self._connection_limit.close()
        if self._front is not None:
            self._front.close()
        if self._folder is not None:
            self._folder.cleanup()
