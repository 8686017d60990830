"""The command's life: start a server of one process or of several, serve until a signal, drain, end."""

import os
import queue
import signal
from types import FrameType

import structlog

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.repository import names
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.process.workers.supervisor import Supervisor
from hangtag.serving.server.telemetry.http_endpoint import OFF, MetricsServer
from hangtag.serving.server.telemetry.prometheus import StateCollector, Workers

log = structlog.get_logger()

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(config: ServerConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return. A second signal ends the process at once, with 1.

    Raises StartError when it cannot start, or when workers end that cannot be replaced.
    """
    warn_of_unknown_names(config)
    # A handler interrupts the main thread anywhere, also inside the log's or an Event's lock, so it takes none itself.
    asked_to_stop: queue.SimpleQueue[int] = queue.SimpleQueue()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, _end_at_once)
        asked_to_stop.put(number)

    server = Server(config) if config.workers == 1 else Supervisor(config)
    workers = server.workers if isinstance(server, Supervisor) else Workers
    metrics = None
    if config.metrics_port != OFF:
        metrics = MetricsServer(config, StateCollector(server.state, workers), lambda: server.ready)
    for number in _SIGNALS:
        signal.signal(number, on_signal)
    server.start()
    if metrics is not None:
        log.info("metrics", url=f"http://{config.address(metrics.port)}/metrics")
    try:
        received = _wait(asked_to_stop, server)
        log.info("stopping", signal=signal.Signals(received).name, drain_seconds=config.drain_seconds)
    finally:
        server.stop()
        if metrics is not None:
            metrics.close()


def warn_of_unknown_names(config: ServerConfig) -> None:
    """Tell of models that have a limit of their own and do not exist. Raises RepositoryError without a repository."""
    unknown = sorted(dict(config.model_max_batch_size).keys() - set(names(config.models)))
    if unknown:
        log.warning(
            "--model-max-batch-size names models that the repository does not have",
            unknown=unknown,
            models=str(config.models),
        )


def _wait(asked_to_stop: "queue.SimpleQueue[int]", server: Server | Supervisor) -> int:
    # A signal that the kernel gives to another thread does not wake this one, and only this one runs handlers.
    while True:
        try:
            return asked_to_stop.get(timeout=0.5)
        except queue.Empty:
            if isinstance(server, Supervisor) and server.failure:
                raise StartError(server.failure) from None


def _end_at_once(_number: int, _frame: FrameType | None) -> None:
    os._exit(1)  # whoever asks twice does not want to wait; workers end with their supervisor
