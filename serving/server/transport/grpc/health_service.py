"""grpc.health.v1.Health: whether the server, a service or a model serves."""

import asyncio
from collections.abc import Mapping

from grpc_health.v1 import health_pb2 as pb

from hangtag.serving.server.errors import NotFoundError, QueueFullError
from hangtag.serving.server.transport.event_loop import event_loop
from hangtag.serving.server.transport.grpc.calls import Context

_UNKNOWN: int = pb.HealthCheckResponse.SERVICE_UNKNOWN
_NOT_SERVING: int = pb.HealthCheckResponse.NOT_SERVING


class HealthService:
    """The state of each name: empty for the server as a whole, else a service or a model."""

    def __init__(self, max_watches: int) -> None:
        """max_watches: how many Watch streams may be open at once."""
        self._max_watches = max_watches
        self._states: dict[str, int] = {}
        self._changed = asyncio.Event()  # replaced by a new one at each change
        self._watches = 0
        self._stopped = False

    def set(self, states: Mapping[str, int]) -> None:
        """Set states by name, each one of HealthCheckResponse.ServingStatus. Thread-safe; no effect after ``stop``."""
        self._states |= states
        event_loop().call_soon_threadsafe(self._wake_watches)

    def stop(self) -> None:
        """Answer NOT_SERVING for every name from now on, whatever is set.

        Each Watch sends that, and ends, so that the server's stop need not wait. To be called on the event loop.
        """
        self._stopped = True
        self._wake_watches()

    async def Check(self, request: pb.HealthCheckRequest, context: Context) -> pb.HealthCheckResponse:
        state = self._state(request.service)
        if state == _UNKNOWN:
            raise NotFoundError("no such service or model; the empty name is the whole server")
        return pb.HealthCheckResponse(status=state)

    async def Watch(self, request: pb.HealthCheckRequest, context: Context) -> None:
        if self._watches >= self._max_watches:
            raise QueueFullError(f"{self._max_watches} Watch streams are open; poll with Check instead")
        self._watches += 1
        try:
            sent: int | None = None
            while True:
                changed = self._changed
                state = self._state(request.service)
                if state != sent:
                    await context.write(pb.HealthCheckResponse(status=state))
                    sent = state
                elif self._stopped:
                    return
                else:
                    await changed.wait()
        finally:
            self._watches -= 1

    def _state(self, name: str) -> int:
        state = self._states.get(name, _UNKNOWN)
        return _NOT_SERVING if self._stopped and state != _UNKNOWN else state

    def _wake_watches(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
