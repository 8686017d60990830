"""Serves the models of an object store. A local copy, which is kept up to date, is the server's model repository."""

import threading
import time
from dataclasses import replace

import structlog

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.telemetry.server_state import StoreState
from hangtag.serving.stores.location import StoreError, shown
from hangtag.serving.stores.mirror import Mirror

log = structlog.get_logger()

_END_SECONDS = 2.0


class Follower:
    """Updates a local copy of the store every --poll-seconds inside its context; not with --model-control none."""

    def __init__(self, config: ServerConfig) -> None:
        """Update the copy for the first time.

        Raises:
            StartError: The store cannot be read and there is no complete earlier copy, or the store has no model.
        """
        self.state = StoreState()
        self._trouble = ""
        try:
            self._mirror = mirror = Mirror(
                config.store,
                config.model_cache,
                most_mib=config.model_cache_mib,
                num_versions=config.num_versions,
                silent_seconds=config.limits.store_silent_seconds,
                report=lambda what, size: log.info(
                    "fetched from the model store", what=what, mib=round(size / 2**20, 1)
                ),
            )
            self._report(mirror.prepare())
        except StoreError as error:
            raise StartError(str(error)) from error
        log.info("models come from a store", store=shown(config.store), copy=str(mirror.models))
        self.config = replace(config, models=mirror.models)
        """The settings with the copy as ``models``."""
        self._thread = threading.Thread(target=self._follow, name="store", daemon=True)

    def __enter__(self) -> "Follower":
        if self.config.model_control != "none":
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._mirror.store.stopping.set()
        if self._thread.is_alive():
            self._thread.join(_END_SECONDS)  # a call to a silent store may take longer, and ends with the process

    def _follow(self) -> None:
        stopping = self._mirror.store.stopping
        while not stopping.wait(self.config.poll_seconds):
            trouble = self._mirror.refresh()
            if trouble is not None and not stopping.is_set():
                self._report(trouble)

    def _report(self, trouble: str) -> None:
        """Record the outcome of an update. Logs each new reason why updates fail, and that updates succeed again."""
        before, self._trouble = self._trouble, trouble
        if not trouble:
            self.state = replace(self.state, last_success=time.time())
            if before:
                log.info("the model store is followed again")
            return
        self.state = replace(self.state, errors=self.state.errors + 1)
        if trouble != before:
            log.warning("the model store cannot be followed; the previous models continue", reason=trouble)
