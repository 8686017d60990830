"""A whole server in one process: it listens, loads the models, answers calls, drains, and ends."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from hangtag.extras import needs
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.config.settings import OFF
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.model_control import ModelControl
from hangtag.serving.server.engine.servable import Control
from hangtag.serving.server.front.envoy import Envoy
from hangtag.serving.server.host import machine
from hangtag.serving.server.runtime.session import Runtime, RuntimeFactory
from hangtag.serving.server.telemetry.server_state import ServerState, StoreState
from hangtag.serving.server.transport import NATIVE, choose_transport
from hangtag.serving.server.transport.grpc.grpc_server import GrpcServer
from hangtag.serving.server.wire.event_loop import run
from hangtag.serving.server.wire.intake import Intake

if TYPE_CHECKING:
    from hangtag.serving.server.transport.http.http_server import HttpServer

log = structlog.get_logger()


class Server:
    """A whole server in this process. Inside a ``with`` block the server is ready; the end of the block drains it.

    A program may call ``environment.prepare`` before it imports this module.

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
        store: StoreState | None = None,
    ) -> None:
        """Prepare the server; it does not listen yet.

        Args:
            versions: The versions to serve for each model, instead of the latest.
            wrap_control: Receives the `Control` of this process's models, and returns the `Control` that clients use.
                In a worker, that is a `Control` of all workers' models. By default, clients use this process's own.
            runtimes: Loads a model file; takes the arguments of Runtime's constructor.
            store: The state of the local copy of the model store, if the models come from a store.

        Raises:
            StartError: The certificates or the tokens are invalid, or the transport cannot be used.
            MissingExtraError: A package for HTTP, for tracing or for an exposed server is not installed.
        """
        self.front = Envoy(config) if config.is_exposed and config.behind is None else None
        """The Envoy in front of an exposed server; None for a trusted server or a worker."""
        if self.front is not None:
            config = replace(config, behind=self.front.behind[0])
        self.config = config
        self.port = 0
        self.http_port = OFF
        self._engine = Engine(config)
        self._store = store
        self.control = ModelControl(self._engine, versions or {}, runtimes)
        self.transport, self._transport_reason = choose_transport(config)
        control = self.control if wrap_control is None else wrap_control(self.control)
        self._intake = intake = Intake(self._engine, control)
        self._transport: GrpcServer
        if self.transport == NATIVE:
            # Imported here and not above, because the library may not be installed.
            from hangtag.serving.server.transport.native import NativeServer

            self._transport = NativeServer(intake)
        else:
            self._transport = GrpcServer(intake)
        self._http: HttpServer | None = None
        if config.http_port != OFF:
            # Imported here and not above, so that a server without HTTP starts faster and does not need the packages.
            with needs("rest", "HTTP, which --http-port -1 turns off,"):
                from hangtag.serving.server.transport.http import http_server
            state = self.state if wrap_control is None else control.state
            self._http = http_server.HttpServer(intake, state, lambda: self.port)
        self.control.on_change = self._transport.health.refresh

    @property
    def address(self) -> str:
        """The server's host:port. The port is known once the server listens."""
        return self.config.address(self.port)

    @property
    def http_address(self) -> str:
        """The host:port for HTTP, which is known once the server listens; empty if the server has no HTTP."""
        return "" if self.http_port == OFF else self.config.address(self.http_port)

    @property
    def ready(self) -> bool:
        """Whether the models are loaded and the server is not draining, so that the server accepts new calls."""
        return self._engine.ready

    @property
    def failure(self) -> str:
        """Why clients can no longer connect; empty as long as they can."""
        return "" if self.front is None else self.front.failure

    def state(self) -> ServerState:
        """The state and the counters of this process's models, the process's transport, and the state of the store."""
        transports = {(self.transport, self._transport_reason): 1}
        return replace(self.control.state(), transports=transports, store=self._store)

    def start(self) -> None:
        """Listen, then load all models, so that health probes get NOT_SERVING while models load. Raises UserError if
        the address cannot be bound, or a model cannot be loaded. After an error, the server is closed."""
        try:
            self.listen()
            self.control.start()
        except BaseException:
            self.stop(grace=0)
            raise
        machine.release_loading_memory()
        log.info(
            "ready",
            address=self.address,
            transport=self.transport,
            because=self._transport_reason,
            models=[model.name for model in self._engine.models],
            **({"http": self.http_address} if self.http_address else {}),
        )

    def listen(self) -> None:
        """Listen only. A replacement worker loads its models first, because it gets calls as soon as it listens."""
        self.port = run(self._transport.start())
        if self._http is not None:
            self.http_port = run(self._http.start())
        if self.front is not None:
            listening = self.front.start()
            self.port, self.http_port = listening.port, listening.http_port

    def stop(self, grace: float | None = None) -> None:
        """Report NOT_SERVING, finish calls in flight within ``grace`` seconds (default: drain_seconds), and end. First
        wait for a load in progress, because ONNX Runtime cannot interrupt a load."""
        grace = self.config.drain_seconds if grace is None else grace
        deadline = time.monotonic() + grace
        self._engine.stopping = True
        self.control.stop()
        self._intake.refuse_new()
        if self.front is not None:
            self.front.drain()
        run(self._transport.stop(grace))
        if self._http is not None:
            run(self._http.stop(max(0.0, deadline - time.monotonic())))
        if self.front is not None:
            self.front.stop(max(0.0, deadline - time.monotonic()))
        self.control.close()
        self._engine.close()
        self._transport.close()
        self._engine.pool.close()
        self._intake.close()
        log.info("stopped")

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()
