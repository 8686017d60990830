"""Health, and what the server and its models are."""

import json
from collections.abc import Callable
from importlib import metadata, resources

from starlette.requests import Request
from starlette.routing import Route

from hangtag.serving.server.classification.examples import examples
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.transport.http.endpoints.message_json import to_dict
from hangtag.serving.server.transport.http.responses import HttpResponse, json_response
from hangtag.serving.server.transport.repository.model_messages import model_config, model_metadata, server_metadata

_HTTP = "hangtag.serving.server.transport.http"
MODEL_PATHS = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")


class ModelEndpoints:
    """Answers for the models of this process."""

    def __init__(self, engine: Engine, stopping: Callable[[], bool]) -> None:
        """Describe the models of an engine. stopping: whether the server takes no new requests."""
        self._engine = engine
        self._stopping = stopping

    def routes(self) -> list[Route]:
        """Return the routes."""
        routes = [
            Route("/v2", self.server),
            Route("/openapi.json", self.openapi),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            Route("/v1/examples/{model}", self.examples),
        ]
        for path in MODEL_PATHS:
            routes += [
                Route(path, self.model),
                Route(f"{path}/ready", self.model_ready),
                Route(f"{path}/config", self.config),
            ]
        return routes

    async def openapi(self, _request: Request) -> HttpResponse:
        description = json.loads((resources.files(_HTTP) / "openapi.json").read_bytes())
        description["info"]["version"] = metadata.version("hangtag")
        return json_response(description)

    async def live(self, _request: Request) -> HttpResponse:
        return json_response({"live": True})

    async def ready(self, _request: Request) -> HttpResponse:
        ready = self._engine.ready and not self._stopping()
        return json_response({"ready": ready}, 200 if ready else 503)

    async def server(self, _request: Request) -> HttpResponse:
        return json_response(to_dict(server_metadata("binary_tensor_data")))

    async def model(self, request: Request) -> HttpResponse:
        model = self._requested(request)
        return json_response(to_dict(model_metadata(model, self._engine.versions(model.name))))

    async def model_ready(self, request: Request) -> HttpResponse:
        return json_response({"name": self._requested(request).name, "ready": True})

    async def config(self, request: Request) -> HttpResponse:
        return json_response(to_dict(model_config(self._requested(request))))

    async def examples(self, request: Request) -> HttpResponse:
        name, _, version = request.path_params["model"].partition("@")
        return json_response({"examples": examples(self._engine.model(name, version).signature)})

    def _requested(self, request: Request) -> Servable:
        return self._engine.model(request.path_params["model"], request.path_params.get("version", ""))
