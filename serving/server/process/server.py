"""A whole server in one process: it listens, loads the models, answers calls, drains, and ends."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

import structlog

from hangtag.serving.server.config.server_config import OFF, ServerConfig
from hangtag.serving.server.engine.control import Control
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.model_control import ModelControl
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.host import memory
from hangtag.serving.server.host.cpus import usable_cpus
from hangtag.serving.server.runtime.session import Runtime, RuntimeFactory
from hangtag.serving.server.telemetry.server_state import ServerState
from hangtag.serving.server.transport.choice import NATIVE, Transport, choose_transport
from hangtag.serving.server.transport.grpc.server import GrpcServer
from hangtag.serving.server.transport.queries.decoding_threads import DecodingThreads
from hangtag.serving.server.transport.repository.repository_calls import RepositoryCalls
from hangtag.serving.server.transport.security.tls import server_credentials, ssl_contexts
from hangtag.serving.server.transport.security.tokens import Authorise, Tokens
from hangtag.serving.server.transport.tracing import Tracing

if TYPE_CHECKING:
    from hangtag.serving.server.transport.http.server import HttpServer

log = structlog.get_logger()


class Server:
    """A whole server in this process. As a context manager it is ready inside the block and drained after it.

    ``environment.prepare`` says what a program may do before it imports this module.

    Example:
        with Server(ServerConfig(models=Path("models"), port=0)) as server:
            print(server.address)
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        versions: Mapping[str, tuple[int, ...]] | None = None,
        wrap_control: Callable[[Control], Control] | None = None,
        runtimes: RuntimeFactory = Runtime,
    ) -> None:
        """Prepare the server; it does not listen yet.

        Args:
            config: The settings.
            versions: The versions to serve, by model, instead of the latest.
            wrap_control: Gets this process's control of the models, and returns the control for clients' calls. A
                worker passes clients' calls to all workers. By default clients control this process.
            runtimes: Loads a model file, as the constructor of Runtime does.

        Raises:
            StartError: The certificates or the tokens are not valid, or the transport cannot be used.
        """
        self.config = config
        self.port = 0
        self.http_port = OFF
        self._stopping = False
        self._engine = Engine(config)
        self.control = ModelControl(self._engine, versions or {}, runtimes)
        self._tracing = Tracing.to(config.otlp_endpoint, config.limits.trace_close_seconds)
        self.transport = choose_transport(config)
        authorise = None
        if config.token_file is not None:
            authorise = Tokens(config.token_file, config.limits.file_check_seconds).authorise
        control = self.control if wrap_control is None else wrap_control(self.control)
        self._repository = RepositoryCalls(control)
        self._decoding = DecodingThreads(usable_cpus(), config.max_queue_size)
        self._grpc = GrpcServer(
            self._engine,
            self._repository,
            self._decoding,
            authorise=authorise,
            credentials=server_credentials(config),
            tracing=self._tracing,
        )
        self._transport: Transport = self._grpc
        if self.transport.name == NATIVE:
            self._transport = self._native_transport(authorise)
        self._http: HttpServer | None = None
        if config.http_port != OFF:
            state = self.state if wrap_control is None else control.state
            self._http = _http_server(
                self._engine, self._repository, state, lambda: self.port, self._decoding, authorise, self._tracing
            )
        self.control.on_change = self._transport.refresh_health

    @property
    def address(self) -> str:
        """host:port; the port is known once the server listens."""
        return self.config.address(self.port)

    @property
    def http_address(self) -> str:
        """host:port of HTTP, known once the server listens; empty where there is none."""
        return "" if self.http_port == OFF else self.config.address(self.http_port)

    @property
    def ready(self) -> bool:
        """Whether the server takes new calls: the models are loaded, and the server is not draining."""
        return self._engine.ready and not self._stopping

    def state(self) -> ServerState:
        """The state and the counters of the models in this process, and its transport."""
        return replace(self.control.state(), transports={(self.transport.name, self.transport.reason): 1})

    def start(self) -> None:
        """Listen, then load all models, so that health probes get NOT_SERVING while models load.

        Raises:
            StartError: The address cannot be bound or a model cannot be loaded. Everything is closed again.
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
            transport=self.transport.name,
            because=self.transport.reason,
            models=[model.name for model in self._engine.models],
            **({"http": self.http_address} if self.http_address else {}),
        )

    def listen(self) -> None:
        """Listen only. A worker that replaces another loads first, because it gets calls as soon as it listens."""
        self.port = self._transport.start()
        if self._http is not None:
            try:
                self.http_port = self._http.start()
            except BaseException:
                self.stop(grace=0)
                raise

    def stop(self, grace: float | None = None) -> None:
        """Report NOT_SERVING, finish calls in flight within ``grace`` seconds (default: drain_seconds), and end.

        Where a model is being loaded, it returns only after that: ONNX Runtime cannot be stopped in the midst of it.
        """
        grace = self.config.drain_seconds if grace is None else grace
        deadline = time.monotonic() + grace
        self._stopping = True
        self.control.stop()
        if self._http is not None:
            self._http.refuse_new()
        self._transport.stop(grace)
        if self._http is not None:
            self._http.stop(max(0.0, deadline - time.monotonic()))
        self.control.close()
        self._engine.close()
        self._transport.close()
        self._engine.pool.close()
        self._decoding.close()
        self._repository.close()
        if self._tracing is not None:
            self._tracing.close()
        log.info("stopped")

    def _native_transport(self, authorise: Authorise | None) -> Transport:
        # Imported here and not above, because the library may not be installed.
        from hangtag.serving.server.transport.native.server import NativeServer

        return NativeServer(self._engine, self._grpc, self._decoding, authorise=authorise, tracing=self._tracing)

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def _http_server(
    engine: Engine,
    repository: RepositoryCalls,
    state: Callable[[], ServerState],
    grpc_port: Callable[[], int],
    decoding: DecodingThreads,
    authorise: Authorise | None,
    tracing: Tracing | None,
) -> "HttpServer":
    try:  # here and not above: a server without HTTP starts without these packages, and faster
        from hangtag.serving.server.transport.http.server import HttpServer
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise StartError(
            f"HTTP needs the Python package {package!r}; install it with: pip install '.[rest]', or turn HTTP off with "
            "--http-port -1"
        ) from error
    tls = ssl_contexts(engine.config)
    return HttpServer(engine, repository, state, grpc_port, decoding, authorise=authorise, tls=tls, tracing=tracing)
