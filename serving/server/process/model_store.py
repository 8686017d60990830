"""Serves the models of an object store. A local copy, which is kept up to date, is the server's model repository."""

import contextlib
import time
from dataclasses import replace

import structlog

from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.telemetry.server_state import StoreState
from hangtag.serving.stores.mirror import Mirror
from hangtag.serving.stores.store_errors import StoreError, shown

log = structlog.get_logger()


class Follower:
    """A local copy of the store, which ``follow`` keeps up to date."""

    def __init__(self, config: ServerConfig) -> None:
        """Update the copy for the first time.

        Raises:
            StoreError: The store cannot be read and there is no complete earlier copy, or the store has no model.
        """
        self.state = StoreState()
        self._trouble = ""
        self._mirror = Mirror(
            config.store,
            config.model_cache,
            most_mib=config.model_cache_mib,
            num_versions=config.num_versions,
            silent_seconds=config.limits.store_silent_seconds,
            report=lambda what, size: log.info("fetched from the model store", what=what, mib=round(size / 2**20, 1)),
        )
        self._update()
        log.info("models come from a store", store=shown(config.store), copy=str(self._mirror.models))
        self.config = replace(config, models=self._mirror.models)
        """The settings with the copy as ``models``."""

    def follow(self) -> None:
        """Update the copy every --poll-seconds, until the process ends."""
        while True:
            time.sleep(self.config.poll_seconds)
            with contextlib.suppress(StoreError):  # the copy was deleted, and cannot be fetched again now
                self._update()

    def _update(self) -> None:
        """Update the copy. Logs each new reason why updates fail, and that updates succeed again."""
        try:
            if not self._mirror.update():
                return  # another process is updating the copy
        except StoreError as error:
            if not self._mirror.is_complete:
                raise
            self.state = replace(self.state, errors=self.state.errors + 1)
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.warning("the model store cannot be followed; the previous models continue", reason=self._trouble)
            return
        self.state = replace(self.state, last_success=time.time())
        if self._trouble:
            self._trouble = ""
            log.info("the model store is followed again")
