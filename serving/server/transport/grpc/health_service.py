"""grpc.health.v1.Health. Not grpcio-health-checking's own servicer: that one sends while it holds a lock which its
callbacks need on the thread that polls, so callers who open and leave a few Watch streams stop the whole server."""

import threading
from collections.abc import Iterator

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

MAX_WATCHES = 128
"""Open Watch streams at once; each holds a thread."""

_UNKNOWN: int = pb.HealthCheckResponse.SERVICE_UNKNOWN


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """The state of each name. Watch streams end when the server stops, so that it does not wait for them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._states: dict[str, int] = {}
        self._watches = 0
        self._stopped = False

    def set(self, service: str, state: int) -> None:
        with self._changed:
            self._states[service] = state
            self._changed.notify_all()

    def stop(self) -> None:
        """NOT_SERVING for every name, which each Watch still tells before it ends."""
        with self._changed:
            self._states = dict.fromkeys(self._states, pb.HealthCheckResponse.NOT_SERVING)
            self._stopped = True
            self._changed.notify_all()

    def Check(self, request: pb.HealthCheckRequest, context: grpc.ServicerContext) -> pb.HealthCheckResponse:
        with self._changed:
            state = self._states.get(request.service)
        if state is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such service or model; the empty name is the whole server")
        return pb.HealthCheckResponse(status=state)

    def Watch(self, request: pb.HealthCheckRequest, context: grpc.ServicerContext) -> Iterator[pb.HealthCheckResponse]:
        with self._changed:
            full = self._watches >= MAX_WATCHES
            self._watches += not full
        if full:
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_WATCHES} Watch streams are open; poll with Check instead"
            )
        try:
            context.add_callback(self._wake)
            told: int | None = None
            while (state := self._next(request.service, told, context)) is not None:
                yield pb.HealthCheckResponse(status=state)
                told = state
        finally:
            with self._changed:
                self._watches -= 1
                self._changed.notify_all()

    def _next(self, service: str, told: int | None, context: grpc.ServicerContext) -> int | None:
        """The service's state once it is not what was told; None when there is nobody, or nothing more, to tell."""

        def state() -> int:
            return self._states.get(service, _UNKNOWN)

        with self._changed:
            self._changed.wait_for(lambda: state() != told or self._stopped or not context.is_active())
            return state() if state() != told and context.is_active() else None

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
