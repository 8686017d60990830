"""A whole server in one process: listen, load, be ready, drain, end."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType

import structlog

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.model_control import Control, ModelControl
from hangtag.serving.server.host import memory
from hangtag.serving.server.telemetry.server_state import ServerState
from hangtag.serving.server.transport.grpc.server import GrpcServer
from hangtag.serving.server.transport.security.tls import server_credentials
from hangtag.serving.server.transport.security.tokens import Tokens
from hangtag.serving.server.transport.tracing import Tracing

log = structlog.get_logger()


class Server:
    """A whole server in this process. Use it as a context manager: ready inside, drained after."""

    def __init__(
        self,
        config: ServerConfig,
        *,
        versions: Mapping[str, tuple[int, ...]] | None = None,
        answering: Callable[[Control], Control] = lambda own: own,
    ) -> None:
        """Raises StartError when the certificates or the tokens are no good.

        versions: serve these, by model, instead of the latest. answering: from this process' own control to the one
        that answers calls.
        """
        self.config = config
        self.port = 0
        self._stopping = False
        self._engine = Engine(config)
        self.control = ModelControl(self._engine, versions or {})
        self._tracing = Tracing.to(config.otlp_endpoint)
        self._transport = GrpcServer(
            self._engine,
            answering(self.control),
            authorise=None if config.token_file is None else Tokens(config.token_file).authorise,
            credentials=server_credentials(config),
            tracing=self._tracing,
        )
        self.control.on_change = self._transport.refresh_health

    @property
    def address(self) -> str:
        return self.config.address(self.port)

    @property
    def ready(self) -> bool:
        """It takes calls, and goes on doing so: false while those in flight are finished."""
        return self._engine.ready and not self._stopping

    def state(self) -> ServerState:
        """What is served, and what was done."""
        path = (self._transport.path, self._transport.why_ordinary)
        return replace(self.control.state(), paths={path: 1})

    def start(self) -> None:
        """Listen first, so that probes get their NOT_SERVING while models load; then load them all.

        Raises StartError, with everything closed again, when the address or a model cannot be had.
        """
        self.listen()
        try:
            self.control.start()
        except BaseException:
            self.stop(grace=0)
            raise
        memory.release_loading_memory()
        log.info(
            "ready",
            address=self.address,
            path=self._transport.path,
            models=[model.name for model in self._engine.models],
        )

    def listen(self) -> None:
        """Only listen. A worker that replaces another does so when all is loaded: it gets callers at once."""
        self.port = self._transport.start()

    def stop(self, grace: float | None = None) -> None:
        """Health says NOT_SERVING, calls in flight are finished within ``grace`` seconds, then everything ends."""
        grace = self.config.drain_seconds if grace is None else grace
        self._stopping = True
        self.control.stop()
        self._transport.stop(grace)
        self.control.close()
        self._engine.close()
        self._transport.close()
        if self._tracing is not None:
            self._tracing.close()
        log.info("stopped")

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
