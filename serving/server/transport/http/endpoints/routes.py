"""All routes but inference."""

from collections.abc import Callable

from starlette.routing import Router

from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.telemetry.server_state import ServerState
from hangtag.serving.server.transport.http.body_budget import BodyBudget
from hangtag.serving.server.transport.http.endpoints.classify import ClassifyEndpoint
from hangtag.serving.server.transport.http.endpoints.metrics import MetricsEndpoint
from hangtag.serving.server.transport.http.endpoints.models import ModelEndpoints
from hangtag.serving.server.transport.http.endpoints.repository import RepositoryEndpoints
from hangtag.serving.server.transport.http.host_names import HostNames
from hangtag.serving.server.transport.http.page.endpoint import PageEndpoint
from hangtag.serving.server.transport.queries.loop_calls import LoopCalls
from hangtag.serving.server.transport.repository.repository_calls import RepositoryCalls
from hangtag.serving.server.transport.tracing import Tracing


def router(
    engine: Engine,
    repository: RepositoryCalls,
    state: Callable[[], ServerState],
    calls: LoopCalls,
    budget: BodyBudget,
    tracing: Tracing | None,
    stopping: Callable[[], bool],
    page: PageEndpoint | None,
) -> Router:
    """Return the router of all routes but inference.

    Args:
        engine: Has the models, and the configuration.
        repository: Loads, unloads and describes models, of all workers where there are several.
        state: Of all workers, for the metrics.
        calls: Submits classifications.
        budget: Of the bodies in flight.
        tracing: Gets a span for each query; None records none.
        stopping: Whether the server takes no new requests.
        page: Lets people try the models in a browser; None without it.
    """
    config = engine.config
    names = HostNames(config.allowed_host) if config.token_file is None else None
    routes = [
        *RepositoryEndpoints(repository, budget, names).routes(),  # before the models': /v2/models/stats is not a model
        *ModelEndpoints(engine, stopping).routes(),
        *ClassifyEndpoint(engine, calls, budget, tracing).routes(),
        *MetricsEndpoint(repository, state).routes(),
    ]
    if page is not None:
        routes += page.routes()
    return Router(routes, redirect_slashes=False)
