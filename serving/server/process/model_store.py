"""Serves the models of an object store. A local copy, which is kept up to date, is the server's model repository."""

import contextlib
import threading
import time
from dataclasses import replace

import structlog

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.telemetry.server_state import StoreState
from hangtag.serving.stores.mirror import Mirror
from hangtag.serving.stores.store import Store, StoreError, shown

log = structlog.get_logger()


def follow(config: ServerConfig) -> tuple[ServerConfig, StoreState]:
    """Update the local copy of the store. Unless --model-control is none, a thread then updates the copy every
    --poll-seconds.

    Returns:
        The settings, with the copy's folder as ``models``, and the copy's state, which each update changes.

    Raises:
        StoreError: The store cannot be read and there is no complete earlier copy, or the store has no model.
    """
    mirror = Mirror(
        Store(config.store, config.limits.store_silent_seconds),
        config.model_cache,
        lambda what, size: log.info("fetched from the model store", what=what, mib=round(size / 2**20, 1)),
        most_mib=config.model_cache_mib,
        num_versions=config.num_versions,
    )
    state = StoreState()
    _update(mirror, state, partly=config.model_control != "none")
    log.info("models come from a store", store=shown(config.store), copy=str(mirror.models))

    def update_for_ever() -> None:
        while True:
            time.sleep(config.poll_seconds)
            with contextlib.suppress(StoreError):  # the copy was deleted, and cannot be fetched again now
                _update(mirror, state, partly=True)

    if config.model_control != "none":
        threading.Thread(target=update_for_ever, name="store", daemon=True).start()
    return replace(config, models=mirror.models), state


def _update(mirror: Mirror, state: StoreState, *, partly: bool) -> None:
    """Update the copy. Log each new reason for failed updates, and log when updates succeed again."""
    trouble = mirror.update(partly=partly)
    if trouble is None:  # another process is updating the copy
        return
    if trouble:
        state.errors += 1
    else:
        state.last_success = time.time()
    if trouble and trouble != state.trouble:
        log.warning("the copy of the model store cannot be updated; the previous models still serve", reason=trouble)
    elif state.trouble and not trouble:
        log.info("the copy of the model store is updated again")
    state.trouble = trouble
