"""A server's life: listen, load, be ready, drain, end."""

import os
import queue
import signal
from types import FrameType, TracebackType

import structlog

from serving.server.config import ServerConfig
from serving.server.control import ModelControl
from serving.server.engine import Engine
from serving.server.metrics import StateCollector
from serving.server.metrics_http import OFF, MetricsServer
from serving.server.state import ServerState
from serving.server.tokens import Tokens
from serving.server.transport.grpc_server import GrpcServer
from serving.server.transport.tls import server_credentials
from serving.server.transport.tracing import Tracing

log = structlog.get_logger()

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Server:
    """A whole server in this process. Use it as a context manager: ready inside, drained after."""

    def __init__(self, config: ServerConfig) -> None:
        """Raises StartError when the certificates or the tokens are no good."""
        self.config = config
        self.port = 0
        self._engine = Engine(config)
        self._control = ModelControl(self._engine)
        self._tracing = Tracing.to(config.otlp_endpoint)
        self._transport = GrpcServer(
            self._engine,
            self._control,
            authorise=None if config.token_file is None else Tokens(config.token_file).authorise,
            credentials=server_credentials(config),
            tracing=self._tracing,
        )
        self._control.on_change = self._transport.refresh_health

    @property
    def address(self) -> str:
        return self.config.address(self.port)

    @property
    def ready(self) -> bool:
        return self._engine.ready

    def state(self) -> ServerState:
        """What is served, and what was done."""
        return self._control.state()

    def start(self) -> None:
        """Listen first, so that probes get their NOT_SERVING while models load; then load them all.

        Raises StartError, with everything closed again, when the address or a model cannot be had.
        """
        self.port = self._transport.start()
        try:
            self._control.start()
        except BaseException:
            self.stop(grace=0)
            raise
        log.info(
            "ready",
            address=self.address,
            path=self._transport.path,
            models=[model.name for model in self._engine.models],
        )

    def stop(self, grace: float | None = None) -> None:
        """Health says NOT_SERVING, calls in flight are finished within ``grace`` seconds, then everything ends."""
        grace = self.config.drain_seconds if grace is None else grace
        self._control.stop()
        self._transport.stop(grace)
        self._control.close()
        self._engine.close()
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


def run(config: ServerConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return. A second signal ends the process at once, with 1."""
    # A handler interrupts the main thread anywhere, also inside the log's or an Event's lock, so it takes none itself.
    asked_to_stop: queue.SimpleQueue[int] = queue.SimpleQueue()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, _end_at_once)
        asked_to_stop.put(number)

    server = Server(config)
    metrics = None
    if config.metrics_port != OFF:
        metrics = MetricsServer(config, StateCollector(config, server.state), lambda: server.ready)
    for number in _SIGNALS:
        signal.signal(number, on_signal)
    server.start()
    if metrics is not None:
        log.info("metrics", url=f"http://{config.address(metrics.port)}/metrics")
    received = signal.Signals(_wait(asked_to_stop))
    log.info("stopping", signal=received.name, drain_seconds=config.drain_seconds)
    server.stop()
    if metrics is not None:
        metrics.close()


def _wait(asked_to_stop: "queue.SimpleQueue[int]") -> int:
    # A signal that the kernel gives to another thread does not wake this one, and only this one runs handlers.
    while True:
        try:
            return asked_to_stop.get(timeout=0.5)
        except queue.Empty:
            continue


def _end_at_once(_number: int, _frame: FrameType | None) -> None:
    os._exit(1)  # whoever asks twice does not want to wait
