"""Runs ``hangtag serve``: starts a server in one process or in several, serves until a signal, drains, and returns."""

import os
import queue
import signal
from types import FrameType

import structlog

from hangtag.serving.server.config.server_config import OFF, ServerConfig
from hangtag.serving.server.engine.repository import names
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.host import open_files
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.process.workers.supervisor import Supervisor
from hangtag.serving.server.telemetry.http_endpoint import MetricsServer
from hangtag.serving.server.telemetry.prometheus import StateCollector

log = structlog.get_logger()

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(config: ServerConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return. A second signal ends the process at once, with code 1.

    Raises:
        StartError: The server cannot start, or a worker ended and could not be replaced.
    """
    warn_of_limits_without_model(config)
    open_files.raise_limit(config.connections)
    # The handler interrupts the main thread anywhere, even while the log or an Event holds its lock. It only calls
    # SimpleQueue.put, which is reentrant.
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, _exit_at_once)
        signals.put(number)

    server = Server(config) if config.workers == 1 else Supervisor(config)
    metrics = None
    if config.metrics_port != OFF:
        metrics = MetricsServer(config, StateCollector(server.state), lambda: server.ready)
    for number in _SIGNALS:
        signal.signal(number, on_signal)
    server.start()
    if metrics is not None:
        log.info("metrics", url=f"http://{config.address(metrics.port)}/metrics")
    try:
        received = _wait_for_signal(signals, server)
        log.info("stopping", signal=signal.Signals(received).name, drain_seconds=config.drain_seconds)
    finally:
        server.stop()
        if metrics is not None:
            metrics.close()


def warn_of_limits_without_model(config: ServerConfig) -> None:
    """Log a warning if --model-max-batch-size names a model that the repository does not have.

    Raises:
        RepositoryError: There is no model repository.
    """
    unknown = sorted(dict(config.model_max_batch_size).keys() - set(names(config.models)))
    if unknown:
        log.warning(
            "--model-max-batch-size names models that the repository does not have",
            unknown=unknown,
            models=str(config.models),
        )


def _wait_for_signal(signals: "queue.SimpleQueue[int]", server: Server | Supervisor) -> int:
    files = open_files.OpenFiles()
    # Python runs signal handlers in the main thread only. If the kernel delivers the signal to another thread, a wait
    # without a timeout would never return, so the main thread wakes up now and then.
    while True:
        try:
            return signals.get(timeout=0.5)
        except queue.Empty:
            files.check()
            if isinstance(server, Supervisor) and server.failure:
                raise StartError(server.failure) from None


def _exit_at_once(_number: int, _frame: FrameType | None) -> None:
    os._exit(1)  # workers end with their supervisor
