"""grpc.health.v1.Health, which ends its Watch streams when the server stops."""

from collections.abc import Callable

import grpc
from grpc_health.v1 import health, health_pb2


class HealthService(health.HealthServicer):  # type: ignore[misc]
    """An open Watch is no work in flight: without this a stopping server would wait for each, as long as it may."""

    def __init__(self) -> None:
        super().__init__()
        self._watches: set[Callable[[health_pb2.HealthCheckResponse | None], None]] = set()
        self._stopped = False

    def Watch(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.ServicerContext,
        send_response_callback: Callable[[health_pb2.HealthCheckResponse | None], None],
    ) -> None:
        super().Watch(request, context, send_response_callback)
        self._watches.add(send_response_callback)
        if not context.add_callback(lambda: self._watches.discard(send_response_callback)):  # it has ended already
            self._watches.discard(send_response_callback)
        if self._stopped:
            send_response_callback(None)

    def stop(self) -> None:
        """NOT_SERVING for every name, and the end of every stream."""
        self.enter_graceful_shutdown()
        self._stopped = True
        for end in list(self._watches):
            end(None)
