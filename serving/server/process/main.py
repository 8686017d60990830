"""Runs ``hangtag serve``: starts a server in one process or in several, serves until a signal, drains, and returns."""

import signal

import structlog

from hangtag.serving.model_repository import names
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.config.settings import OFF
from hangtag.serving.server.host import machine
from hangtag.serving.server.host.ports import METRICS, bind
from hangtag.serving.server.process.lifecycle import StopReasons, at_most
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.process.supervisor import Supervisor
from hangtag.serving.server.telemetry.http_endpoint import MetricsServer

log = structlog.get_logger()


def run(config: ServerConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return. A second signal ends the process at once, with code 1.

    SIGALRM ends a process that has not drained within ``drain_seconds`` plus ``Limits.end_seconds``. A supervisor has
    twice ``end_seconds``, because it ends its workers first.

    Raises:
        StartError: The server cannot start, or a worker ended and could not be replaced.
    """
    store = None
    if config.store:
        # Imported here and not above, because only a server with a model store needs it.
        from hangtag.serving.server.process.model_store import follow

        config, store = follow(config)
    kept = config.load_model if config.max_loaded_mib else ()  # otherwise, an unknown name is an error
    # raises ModelRepositoryError if there is no model repository
    unknown = sorted({*dict(config.model_max_batch_size), *kept} - {*names(config.models)})
    if unknown:
        event = "--model-max-batch-size or --load-model names models that the repository does not have"
        log.warning(event, unknown=unknown, models=str(config.models))
    connections = config.max_connections * (1 if config.http_port == OFF else 2)
    machine.raise_open_files_limit(connections, exposed=config.is_exposed)
    server = Server(config, store=store) if config.workers == 1 else Supervisor(config, store=store)
    metrics, metrics_port = None, OFF
    if config.metrics_port != OFF:
        if server.front is None:
            listener = bind(config.host, config.metrics_port, METRICS)
            metrics_port = listener.getsockname()[1]
        else:
            listener, metrics_port = server.front.reserve_metrics()
        metrics = MetricsServer(listener, server.state, lambda: server.ready)
    reasons = StopReasons()
    reasons.add_signals(signal.SIGTERM, signal.SIGINT)
    server.start()
    if metrics is not None:
        log.info("metrics", url=f"http://{config.address(metrics_port)}/metrics")
    try:
        log.info("stopping", signal=reasons.wait(lambda: server.failure), drain_seconds=config.drain_seconds)
    finally:
        # A supervisor first ends its workers, which may take end_seconds, and then needs time to end itself.
        spare = config.limits.end_seconds * (1 if config.workers == 1 else 2)
        with at_most(config.drain_seconds + spare):
            server.stop()
            if metrics is not None:
                metrics.close()
