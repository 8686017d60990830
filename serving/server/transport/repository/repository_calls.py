"""What clients may ask of the model repository and of the statistics. The answers hold for all workers of the server.

The work runs on threads, because it would hold up the event loop: the statistics and the index ask other processes and
read the repository, and loading takes long.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from hangtag.serving.server.engine.control import Control
from hangtag.serving.server.engine.single_flight import SingleFlight
from hangtag.serving.server.errors import NotFoundError
from hangtag.serving.server.telemetry.server_state import READY, UNAVAILABLE, ServerState, VersionState

Result = TypeVar("Result")

_THREADS = 32  # that may wait for other workers or for a load at once


class RepositoryCalls:
    """Coroutines for the event loop, which all transports share."""

    def __init__(self, control: Control) -> None:
        """control: loads, unloads and describes models, of all workers where there are several."""
        self._control = control
        self._loads = SingleFlight()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="control")

    async def state(self) -> ServerState:
        """Return what serves, and the counters."""
        return await self.in_thread(lambda control: control.state())

    async def index(self, *, ready: bool) -> list[VersionState]:
        """Return every version that serves; with ``ready`` false also those that could be loaded or failed to."""
        return await self.in_thread(_ready if ready else _known)

    async def statistics(self, name: str = "", version: str = "") -> list[VersionState]:
        """Return the versions that serve, with their counters; of one model or version where these are not empty.

        Raises:
            NotFoundError: The model, or the version of it, is not served.
        """
        return _requested(await self.in_thread(_ready), name, version)

    async def load(self, name: str) -> None:
        """Load a model; see `Control.load` for what it raises.

        Calls for one model share its next load, so that callers who come and leave cannot pile up loads. A load goes
        on when its caller has left.
        """
        load = self._loads.do(name, partial(self._control.load, name))
        await asyncio.shield(asyncio.wrap_future(load))

    async def unload(self, name: str) -> None:
        """Take a model out of service; see `Control.unload` for what it raises."""
        await self.in_thread(lambda control: control.unload(name))

    async def in_thread(self, work: Callable[[Control], Result]) -> Result:
        """Return what ``work`` returns, which may block."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, self._control)

    def close(self) -> None:
        """End the threads, once they are idle."""
        self._loads.close()
        self._threads.shutdown(wait=False)


def _ready(control: Control) -> list[VersionState]:
    return [state for state in control.state().versions if state.state == READY]


def _known(control: Control) -> list[VersionState]:
    """Every version that was loaded or tried, then the models and routes of the repository that could be loaded."""
    states = control.state().versions
    tried = {state.name for state in states}
    not_loaded = [
        VersionState(name, version, UNAVAILABLE, "not loaded")
        for name, version in control.published()
        if name not in tried
    ]
    return [*states, *not_loaded]


def _requested(states: list[VersionState], name: str, version: str) -> list[VersionState]:
    """The states of this model and version, or of all where these are empty. Raises NotFoundError."""
    requested = [state for state in states if name in ("", state.name) and version in ("", state.version)]
    if not name or requested:
        return requested
    versions = ", ".join(state.version for state in states if state.name == name)
    if versions:
        raise NotFoundError(f"version {version!r} of {name!r} is not served here; served: {versions}")
    names = ", ".join(dict.fromkeys(state.name for state in states)) or "none"
    raise NotFoundError(f"Request for unknown model: {name!r} is not served here; served: {names}")
