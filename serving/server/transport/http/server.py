"""The HTTP server: uvicorn on the event loop that all transports share.

The methods here may be called from any thread but the loop's.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable

import uvicorn

from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.host.ports import bind_http
from hangtag.serving.server.telemetry.log import redirect_library_log, silence_library_log
from hangtag.serving.server.telemetry.server_state import ServerState
from hangtag.serving.server.transport.event_loop import run
from hangtag.serving.server.transport.http.application import Application
from hangtag.serving.server.transport.http.body_budget import BodyBudget
from hangtag.serving.server.transport.http.connection import Connection, UvicornConfig
from hangtag.serving.server.transport.http.endpoints.routes import router
from hangtag.serving.server.transport.http.host_names import HostNames
from hangtag.serving.server.transport.http.inference.endpoint import InferEndpoint
from hangtag.serving.server.transport.http.page.endpoint import PageEndpoint
from hangtag.serving.server.transport.http.tls_listener import TlsListener
from hangtag.serving.server.transport.queries.decoding_threads import DecodingThreads
from hangtag.serving.server.transport.queries.loop_calls import LoopCalls
from hangtag.serving.server.transport.repository.repository_calls import RepositoryCalls
from hangtag.serving.server.transport.security.tokens import Authorise
from hangtag.serving.server.transport.tracing import Tracing

_BACKLOG = 2048
_CLOSE_SECONDS = 0.1
"""What closing idle connections may take where nothing else may."""


class HttpServer:
    """Listens from ``start`` on."""

    def __init__(
        self,
        engine: Engine,
        repository: RepositoryCalls,
        state: Callable[[], ServerState],
        grpc_port: Callable[[], int],
        decoding: DecodingThreads,
        *,
        authorise: Authorise | None = None,
        tls: Callable[[], ssl.SSLContext] | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """Build the server; it does not listen yet.

        Args:
            engine: Has the models, and the configuration.
            repository: Loads, unloads and describes models, of all workers where there are several; the caller closes
                it.
            state: Of all workers, for the metrics.
            grpc_port: Returns the port of gRPC, for the page. Called once the server listens.
            decoding: Decode pictures and large messages; the caller closes them too.
            authorise: Checks every request but those to health; None lets everybody call.
            tls: Returns what the next connection is encrypted with; None serves clear text.
            tracing: Gets a span for each query; None records none.
        """
        config = engine.config
        self._config = config
        self._stopping = False

        def stopping() -> bool:
            return self._stopping

        calls = LoopCalls(engine, decoding)
        budget = BodyBudget(config.http_bodies_bytes, config.max_message_mib << 20)
        page = None if config.no_page else PageEndpoint(grpc_port)
        application = Application(
            engine,
            InferEndpoint(engine, calls, budget, tracing),
            router(engine, repository, state, calls, budget, tracing, stopping, page),
            authorise,
            stopping,
            HostNames(config.allowed_host) if config.allowed_host else None,
        )
        redirect_library_log("uvicorn", with_values=False)
        silence_library_log("python_multipart")  # it logs every malformed form that a caller sends
        settings = UvicornConfig(
            application,
            config,
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=round(config.connection_idle_seconds),
        )
        self._uvicorn = _Uvicorn(settings, tls)
        self._serving: asyncio.Task[None] | None = None

    def start(self) -> int:
        """Listen, and return the port. Raises StartError where the address cannot be bound."""
        config = self._config
        listener = bind_http(config.host, config.http_port, shared=config.workers > 1)
        listener.listen(_BACKLOG)
        run(self._start(listener))
        port: int = listener.getsockname()[1]
        return port

    def refuse_new(self) -> None:
        """Answer every further request with UNAVAILABLE, and go on to serve those in flight."""
        self._stopping = True

    def stop(self, grace: float) -> None:
        """Close the port and idle connections, and let requests in flight finish within ``grace`` seconds."""
        if self._serving is not None:
            run(self._stop(grace))

    async def _start(self, listener: socket.socket) -> None:
        self._serving = asyncio.create_task(self._uvicorn.serve([listener]))
        await self._uvicorn.listening.wait()

    async def _stop(self, grace: float) -> None:
        assert self._serving is not None
        self._stopping = True
        # uvicorn takes whole seconds by its type, and hands them to asyncio.wait_for, which takes any.
        self._uvicorn.config.timeout_graceful_shutdown = max(grace, _CLOSE_SECONDS)  # type: ignore[assignment]
        self._uvicorn.should_exit = True
        await self._serving
        for connection in list(self._uvicorn.server_state.connections):  # of clients that do not read their responses
            connection.transport.abort()


class _Uvicorn(uvicorn.Server):
    """Says when it listens, and leaves it to `TlsListener` to accept connections with TLS."""

    def __init__(self, config: UvicornConfig, tls: Callable[[], ssl.SSLContext] | None) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self._config = config
        self._tls = tls
        self._tls_listeners: list[TlsListener] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._tls is None:
            await super().startup(sockets)
        else:
            await super().startup([])
            connections, settings = self.server_state.connections, self._config.settings
            most, seconds = settings.max_connections, settings.limits.request_seconds
            self._tls_listeners = [
                TlsListener(each, self._tls, self._connection, connections, most, seconds) for each in sockets or []
            ]
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for each in self._tls_listeners:
            await each.close()
        await super().shutdown(sockets)

    def _connection(self) -> Connection:
        return Connection(self._config, server_state=self.server_state, app_state=self.lifespan.state)
