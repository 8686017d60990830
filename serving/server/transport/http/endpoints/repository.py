"""The model repository and the statistics, for all workers of the server."""

from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from hangtag.serving.server.errors import ForeignOriginError, InvalidRequestError
from hangtag.serving.server.transport.http.bodies import read_decompressed
from hangtag.serving.server.transport.http.body_budget import BodyBudget
from hangtag.serving.server.transport.http.endpoints.message_json import to_dict
from hangtag.serving.server.transport.http.endpoints.models import MODEL_PATHS
from hangtag.serving.server.transport.http.host_names import HostNames
from hangtag.serving.server.transport.http.inference.request_head import parameters_of, parse_json
from hangtag.serving.server.transport.http.responses import HttpResponse, json_response
from hangtag.serving.server.transport.repository.model_messages import model_index, model_statistics
from hangtag.serving.server.transport.repository.repository_calls import RepositoryCalls

_MAX_BODY_BYTES = 64 * 1024


class RepositoryEndpoints:
    """Answers through the calls that all transports share."""

    def __init__(self, repository: RepositoryCalls, budget: BodyBudget, names: HostNames | None) -> None:
        """Answer.

        Args:
            repository: Loads, unloads and describes models.
            budget: Of the bodies in flight.
            names: Models are loaded and unloaded only under these names of the server; None lets any host do, for a
                page that uses another site's name has no token.
        """
        self._repository = repository
        self._budget = budget
        self._names = names

    def routes(self) -> list[Route]:
        """Return the routes. Those of all statistics come first: 'stats' is no model's name there."""
        return [
            Route("/v2/models/stats", self.statistics),
            *[Route(f"{path}/stats", self.statistics) for path in MODEL_PATHS],
            Route("/v2/repository/index", self.index, methods=["POST"]),
            Route("/v2/repository/models/{model}/load", self.load, methods=["POST"]),
            Route("/v2/repository/models/{model}/unload", self.unload, methods=["POST"]),
        ]

    async def statistics(self, request: Request) -> HttpResponse:
        states = await self._repository.statistics(
            request.path_params.get("model", ""), request.path_params.get("version", "")
        )
        return json_response({"model_stats": [to_dict(model_statistics(state)) for state in states]})

    async def index(self, request: Request) -> HttpResponse:
        ready = (await self._optional_json(request)).get("ready", False)
        if type(ready) is not bool:
            raise InvalidRequestError("'ready' must be true or false")
        states = await self._repository.index(ready=ready)
        return json_response([to_dict(model_index(state)) for state in states])

    async def load(self, request: Request) -> HttpResponse:
        self._require_own_site(request)
        parameters = parameters_of(await self._optional_json(request), "the request")
        if parameters:
            name = next(iter(parameters))
            raise InvalidRequestError(f"parameter {name!r} is not supported: a model is loaded as its file is")
        await self._repository.load(request.path_params["model"])
        return json_response({})

    async def unload(self, request: Request) -> HttpResponse:
        self._require_own_site(request)
        await self._optional_json(
            request
        )  # it may hold parameters, such as unload_dependents, which change nothing here
        await self._repository.unload(request.path_params["model"])
        return json_response({})

    async def _optional_json(self, request: Request) -> dict[str, Any]:
        with self._budget.hold(_MAX_BODY_BYTES) as held:
            body = await read_decompressed(request.receive, dict(request.headers.raw), held)
            return parse_json(body) if body.strip() else {}

    def _require_own_site(self, request: Request) -> None:
        """Raise ForeignOriginError for a request that a page of another site sends through somebody's browser.

        A browser says in ``Origin`` for every POST which site the page is of, and sends the request although the page
        may not read the answer.
        """
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise ForeignOriginError(
                f"a page of {origin} may not load and unload models here; only this server's pages may, and programs, "
                "which send no Origin"
            )
        if self._names is not None:
            self._names.require(host)
