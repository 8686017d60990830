"""Prometheus' metrics, of all workers, as on the metrics port."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.routing import Route

from hangtag.serving.server.engine.control import Control
from hangtag.serving.server.errors import InvalidRequestError
from hangtag.serving.server.telemetry.prometheus import StateCollector
from hangtag.serving.server.telemetry.server_state import ServerState
from hangtag.serving.server.transport.http.responses import HttpResponse
from hangtag.serving.server.transport.repository.repository_calls import RepositoryCalls


class MetricsEndpoint:
    """Collects the metrics anew for each scrape, on a thread."""

    def __init__(self, repository: RepositoryCalls, state: Callable[[], ServerState]) -> None:
        """Export a state.

        Args:
            repository: Has the threads.
            state: Asks all workers.
        """
        self._repository = repository
        self._state = state

    def routes(self) -> list[Route]:
        """Return the route."""
        return [Route("/metrics", self.metrics)]

    async def metrics(self, request: Request) -> HttpResponse:
        try:
            encode, content_type = choose_encoder(request.headers.get("accept", ""))
        except (TypeError, ValueError) as error:  # prometheus-client compares versions as numbers
            raise InvalidRequestError("the Accept header has a version that is not a number") from error

        def collect(_control: Control) -> bytes:
            registry = CollectorRegistry()
            registry.register(StateCollector(self._state))
            return encode(registry)

        return HttpResponse(await self._repository.in_thread(collect), content_type.encode())
