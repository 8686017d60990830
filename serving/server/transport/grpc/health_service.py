"""grpc.health.v1.Health: whether the server, a service or a model serves.

grpcio-health-checking's own servicer is not used: it sends while it holds a lock that its callbacks need on the thread
that polls, so clients that open and leave a few Watch streams stop the whole server.
"""

import threading
from collections.abc import Iterator

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

from hangtag.serving.server.errors import NotFoundError, QueueFullError

MAX_WATCHES = 128
"""Open Watch streams at once; each holds a thread."""

_UNKNOWN: int = pb.HealthCheckResponse.SERVICE_UNKNOWN


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """The state of each name: empty for the server as a whole, else a service or a model. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._states: dict[str, int] = {}
        self._watches = 0
        self._stopped = False

    def set(self, service: str, state: int) -> None:
        """Set a name's state, one of HealthCheckResponse.ServingStatus."""
        with self._changed:
            self._states[service] = state
            self._changed.notify_all()

    def stop(self) -> None:
        """Set every name to NOT_SERVING. Each Watch sends that, and ends, so that the server's stop need not wait."""
        with self._changed:
            self._states = dict.fromkeys(self._states, pb.HealthCheckResponse.NOT_SERVING)
            self._stopped = True
            self._changed.notify_all()

    def Check(self, request: pb.HealthCheckRequest, context: grpc.ServicerContext) -> pb.HealthCheckResponse:
        with self._changed:
            state = self._states.get(request.service)
        if state is None:
            raise NotFoundError("no such service or model; the empty name is the whole server")
        return pb.HealthCheckResponse(status=state)

    def Watch(self, request: pb.HealthCheckRequest, context: grpc.ServicerContext) -> Iterator[pb.HealthCheckResponse]:
        with self._changed:
            if self._watches >= MAX_WATCHES:
                raise QueueFullError(f"{MAX_WATCHES} Watch streams are open; poll with Check instead")
            self._watches += 1
        try:
            context.add_callback(self._wake)
            sent: int | None = None
            while (state := self._next_state(request.service, sent, context)) is not None:
                yield pb.HealthCheckResponse(status=state)
                sent = state
        finally:
            with self._changed:
                self._watches -= 1
                self._changed.notify_all()

    def _next_state(self, service: str, sent: int | None, context: grpc.ServicerContext) -> int | None:
        """Wait until the state differs from the one sent; None when the server stops or the client has left."""

        def state() -> int:
            return self._states.get(service, _UNKNOWN)

        with self._changed:
            self._changed.wait_for(lambda: state() != sent or self._stopped or not context.is_active())
            return state() if state() != sent and context.is_active() else None

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
