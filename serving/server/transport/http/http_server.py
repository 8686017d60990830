"""The HTTP server, on the event loop that all transports share.

The methods here may be called from any thread except the loop's.
"""

import asyncio
import logging
import socket
from collections.abc import Callable

from hangtag.serving.server.host.ports import HTTP, HTTP_SOCKET, bind, bind_unix
from hangtag.serving.server.telemetry.server_state import ServerState
from hangtag.serving.server.transport.http.application import Application
from hangtag.serving.server.transport.http.classify_endpoint import ClassifyEndpoint
from hangtag.serving.server.transport.http.connection import Connection
from hangtag.serving.server.transport.http.endpoints import ModelEndpoints, PageEndpoint
from hangtag.serving.server.transport.http.platforms import PlatformEndpoints
from hangtag.serving.server.wire.event_loop import LoopCalls, run
from hangtag.serving.server.wire.intake import Intake

_BACKLOG = 2048
_CLOSE_SECONDS = 0.1
"""The time for closing idle connections, even if the grace period is shorter."""


class HttpServer:
    """Listens after ``start``."""

    def __init__(self, intake: Intake, state: Callable[[], ServerState], grpc_port: Callable[[], int]) -> None:
        """Build the server, which does not listen yet.

        Args:
            intake: The part that all transports share.
            state: Returns the state of all workers, for the metrics.
            grpc_port: Returns the port of gRPC, for the page. The server calls this function after it has started to
                listen.
        """
        self._config = config = intake.engine.config
        calls = LoopCalls(intake)
        models, classifiers = ModelEndpoints(intake, state), ClassifyEndpoint(calls)
        routes = [*models.routes(), *classifiers.routes()]
        if config.platform_paths:
            routes += PlatformEndpoints(calls, models.ready, classifiers.classify).routes()
        if not config.no_page:
            routes += PageEndpoint(grpc_port).routes()
        self._application = Application(calls, routes)
        # python_multipart would log every malformed form
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL + 1)
        self._connections: set[Connection] = set()
        self._listening: asyncio.Server | None = None

    def start(self) -> int:
        """Listen, and return the port, or 0 behind Envoy. Raises StartError if the address cannot be bound."""
        config = self._config
        if config.behind is None:
            listener = bind(config.host, config.http_port, HTTP, shared=config.workers > 1)
            port: int = listener.getsockname()[1]
        else:
            listener, port = bind_unix(config.behind / HTTP_SOCKET), 0
        listener.listen(_BACKLOG)
        run(self._start(listener))
        return port

    def refuse_new(self) -> None:
        """Answer every further request with UNAVAILABLE, and continue to serve requests in flight."""
        self._application.callers.refuse_new()

    def stop(self, grace: float) -> None:
        """Close the port and idle connections, and let requests in flight finish within ``grace`` seconds."""
        if self._listening is not None:
            run(self._stop(self._listening, max(grace, _CLOSE_SECONDS)))

    async def _start(self, listener: socket.socket) -> None:
        idle_seconds = self._config.connection_idle_seconds
        loop = asyncio.get_running_loop()
        create = loop.create_unix_server if listener.family == socket.AF_UNIX else loop.create_server
        self._listening = await create(
            lambda: Connection(self._application, self._connections, idle_seconds), sock=listener, backlog=_BACKLOG
        )

    async def _stop(self, listening: asyncio.Server, seconds: float) -> None:
        self.refuse_new()
        listening.close()
        for connection in list(self._connections):
            connection.stop()
        if closed := [connection.closed for connection in self._connections]:
            await asyncio.wait(closed, timeout=seconds)
        # Connections are still open if their clients do not read, or if their requests take longer.
        for connection in list(self._connections):
            connection.abort()
