"""Runs ``hangtag serve``: starts a server in one process or in several, serves until a signal, drains, and returns."""

import signal
import threading
import time
from dataclasses import replace

import structlog

from hangtag.errors import UserError
from hangtag.serving.model_repository import names
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.config.settings import OFF
from hangtag.serving.server.host import machine
from hangtag.serving.server.host.ports import METRICS, bind
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.process.supervisor import Supervisor
from hangtag.serving.server.process.worker import StopReasons, end_after
from hangtag.serving.server.telemetry.http_endpoint import MetricsServer
from hangtag.serving.server.telemetry.server_state import StoreState

log = structlog.get_logger()


def run(config: ServerConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return. A second signal ends the process at once, with code 1.

    SIGALRM ends a process that has not drained within ``drain_seconds`` plus ``Limits.end_seconds``. Raises StartError
    if the server cannot start, or a worker or Envoy ended and could not be replaced.
    """
    store = None
    if config.store:
        config, store = _follow_store(config)
    kept = config.load_model if config.max_loaded_mib else ()  # otherwise, an unknown name is an error
    # `names` raises ModelRepositoryError if there is no model repository
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
        end_after(config.drain_seconds + spare)
        server.stop()
        if metrics is not None:
            metrics.close()
        end_after(0)


def _follow_store(config: ServerConfig) -> tuple[ServerConfig, StoreState]:
    """Update the local copy of a model store. Unless --model-control is none, a thread then updates the copy every
    --poll-seconds. Return two values: the settings, in which ``models`` is the copy's folder, and the state that each
    update changes. Raises StoreError if there is no model, or the store cannot be read and no copy is complete."""
    # Imported here and not above, because only a server with a model store needs it.
    from hangtag.serving.stores.mirror import Mirror
    from hangtag.serving.stores.store import Store, shown

    mirror = Mirror(
        Store(config.store, config.limits.store_silent_seconds),
        config.model_cache,
        lambda what, size: log.info("fetched from the model store", what=what, mib=round(size / 2**20, 1)),
        most_mib=config.model_cache_mib,
        num_versions=config.num_versions,
    )
    state = StoreState()
    follows = config.model_control != "none"

    def update(*, partly: bool = True) -> None:
        trouble = mirror.update(partly=partly)
        if trouble is None:  # another process is updating the copy
            return
        if trouble:
            state.errors += 1
        else:
            state.last_success = time.time()
        if trouble and trouble != state.trouble:
            log.warning(
                "the copy of the model store cannot be updated; the previous models still serve", reason=trouble
            )
        elif state.trouble and not trouble:
            log.info("the copy of the model store is updated again")
        state.trouble = trouble

    def update_for_ever() -> None:
        while True:
            time.sleep(config.poll_seconds)
            try:
                update()
            except UserError:  # the copy was deleted, and cannot be fetched again now
                state.errors += 1

    update(partly=follows)
    log.info("models come from a store", store=shown(config.store), copy=str(mirror.models))
    if follows:
        threading.Thread(target=update_for_ever, name="store", daemon=True).start()
    return replace(config, models=mirror.models), state
