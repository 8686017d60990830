"""What transports may do to the served models: load, unload, and ask what serves."""

from typing import Protocol

from hangtag.serving.server.engine.loading import VersionKey
from hangtag.serving.server.telemetry.server_state import ServerState


class Control(Protocol):
    """Controls the models of this process alone, or of all workers."""

    def load(self, name: str) -> None:
        """Load the versions of a model that are to serve, also if they are loaded already.

        Raises:
            NotFoundError: The repository has no such model.
            ControlError: Loading by call is off, or a version cannot be loaded. What served before still serves.
            UnavailableError: The server is stopping.
        """

    def unload(self, name: str) -> None:
        """Take a model out of service.

        Raises:
            NotFoundError: No such model is served.
            ControlError: Unloading by call is off.
            UnavailableError: The server is stopping.
        """

    def state(self) -> ServerState:
        """Return what serves, what does not and why, and the counters."""

    def published(self) -> list[VersionKey]:
        """Return the version of each model and route in the repository that is to serve, whether it does or not."""
