"""A server's life: listen, load, be ready, drain, end."""

import os
import queue
import signal
from types import FrameType, TracebackType

import structlog

from serving.server import memory
from serving.server.config import ServerConfig
from serving.server.engine import Engine
from serving.server.transport.grpc_server import GrpcServer

log = structlog.get_logger()

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Server:
    """A whole server in this process. Use it as a context manager: ready inside, drained after."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.port = 0
        self._engine = Engine(config)
        self._transport = GrpcServer(self._engine)

    @property
    def address(self) -> str:
        return self.config.address(self.port)

    def start(self) -> None:
        """Listen first, so that probes get their NOT_SERVING while models load; then load them all.

        Raises StartError, with everything closed again, when the address or a model cannot be had.
        """
        self.port = self._transport.start()
        try:
            self._engine.load()
        except BaseException:
            self.stop(grace=0)
            raise
        memory.settle()
        self._transport.set_ready()
        log.info(
            "ready",
            address=self.address,
            path=self._transport.path,
            models=[model.name for model in self._engine.models],
        )

    def stop(self, grace: float | None = None) -> None:
        """Health says NOT_SERVING, calls in flight are finished within ``grace`` seconds, then everything ends."""
        grace = self.config.drain_seconds if grace is None else grace
        self._transport.stop(grace)
        self._engine.close()
        self._transport.close()
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
    for number in _SIGNALS:
        signal.signal(number, on_signal)
    server.start()
    received = signal.Signals(_wait(asked_to_stop))
    log.info("stopping", signal=received.name, drain_seconds=config.drain_seconds)
    server.stop()


def _wait(asked_to_stop: "queue.SimpleQueue[int]") -> int:
    # A signal that the kernel gives to another thread does not wake this one, and only this one runs handlers.
    while True:
        try:
            return asked_to_stop.get(timeout=0.5)
        except queue.Empty:
            continue


def _end_at_once(_number: int, _frame: FrameType | None) -> None:
    os._exit(1)  # whoever asks twice does not want to wait
