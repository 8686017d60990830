"""All endpoints except inference and classification: health, descriptions of the server and its models, the model
repository, the statistics, the metrics, and the page with its files."""

import contextlib
import ipaddress
import json
import re
from collections.abc import Callable, Iterable
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import ForeignOriginError, InvalidRequestError, NotLoadedError
from hangtag.serving.server.telemetry.prometheus import exposition
from hangtag.serving.server.telemetry.server_state import ServerState
from hangtag.serving.server.transport.http.bodies import decompressed
from hangtag.serving.server.transport.http.infer_json import parameters_of, parse_json
from hangtag.serving.server.transport.http.messages import (
    Header,
    HttpRequest,
    HttpResponse,
    Route,
    json_response,
    no_such_path,
    to_dict,
)
from hangtag.serving.server.wire.image_query import examples
from hangtag.serving.server.wire.intake import Intake
from hangtag.serving.server.wire.model_queries import model_config, model_metadata, server_metadata

_HTTP = "hangtag.serving.server.transport.http"
_LOCALHOST = "localhost"
_PORT = re.compile(r":[0-9]*$")
_MAX_QUOTED = 200

_PREFIX = "/page/"
_STATIC = Path(__file__).parent / "page/static"
_INDEX = "index.html"
_TYPES = {
    ".css": b"text/css; charset=utf-8",
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".png": b"image/png",
    ".svg": b"image/svg+xml",
}
# With this policy, a browser runs only the page's own files, sends data only to this server, and never interprets text
# from a model's file as HTML. blob: allows the pictures that a user chooses.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
_HEADERS: tuple[Header, ...] = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    # The files change with the server's version, so browsers must not store them.
    (b"cache-control", b"no-store"),
)


def require_host(host: str, allowed: Iterable[str]) -> None:
    """Raise ForeignOriginError if a Host header, which may have a port, does not name this server.

    After a browser has loaded a page of ``evil.example``, this name may resolve to the server's address (DNS
    rebinding). The browser then takes the server for the page's own site, and sends ``Host`` and ``Origin`` with the
    page's name. For such a page, a browser never sends an address, ``localhost`` or an empty header as ``Host``. The
    operator lists all other names of the server, in upper or lower case and without a port.
    """
    name = _PORT.sub("", host).lower().rstrip(".")
    names = {"", _LOCALHOST, *(each.lower().rstrip(".") for each in allowed)}
    if name in names or name.endswith(f".{_LOCALHOST}"):
        return
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise ForeignOriginError(
            f"this server does not know the host name {host[:_MAX_QUOTED]!r}; call it by its address or as localhost, "
            "or start it with --allowed-host and that name"
        ) from None


def is_of_page(path: str) -> bool:
    """Whether a path belongs to the page or its files. The page and its files need no token, because the page must be
    loaded before it can ask for one."""
    return path == "/" or path.startswith(_PREFIX)


class ModelEndpoints:
    """Describes the models of this process, and serves the page at / and its files under /page/. Loading, unloading and
    statistics go through `RepositoryCalls`, which all transports share."""

    def __init__(self, intake: Intake, state: Callable[[], ServerState], grpc_port: Callable[[], int]) -> None:
        """``state`` returns the state of all workers, for the metrics. Once the server listens, ``grpc_port`` returns
        gRPC's port, which the page's examples use."""
        self._intake = intake
        self._engine = intake.engine
        self._repository = intake.repository
        self._state = state
        self._grpc_port = grpc_port
        # the files are read at startup, so no request reads a disk
        paths = () if intake.engine.config.no_page else [path for path in _STATIC.rglob("*") if path.is_file()]
        self._files = {path.relative_to(_STATIC).as_posix(): path.read_bytes() for path in paths}

    def routes(self) -> list[Route]:
        """Return the routes. The routes for all statistics come first, because 'stats' is not a model's name there."""
        routes = [
            Route("/v2/models/stats", self.statistics),
            Route("/v2", self.server),
            Route("/openapi.json", self.openapi),
            Route("/metrics", self.metrics),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            Route("/v1/examples/{model}", self.examples),
            Route("/v2/repository/index", self.index, methods=["POST"]),
            Route("/v2/repository/models/{model}/load", self.load, methods=["POST"]),
            Route("/v2/repository/models/{model}/unload", self.unload, methods=["POST"]),
        ]
        for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            routes += [
                Route(path, self.model),
                Route(f"{path}/stats", self.statistics),
                Route(f"{path}/ready", self.model_ready),
                Route(f"{path}/config", self.config),
            ]
        if self._files:
            routes += [Route("/", self.page), Route(f"{_PREFIX}{{file:path}}", self.file)]
        return routes

    async def openapi(self, _request: HttpRequest) -> HttpResponse:
        description = json.loads((resources.files(_HTTP) / "openapi.json").read_bytes())
        description["info"]["version"] = metadata.version("hangtag")
        return json_response(description)

    async def live(self, _request: HttpRequest) -> HttpResponse:
        return json_response({"live": True})

    async def ready(self, _request: HttpRequest) -> HttpResponse:
        ready = self._engine.ready
        return json_response({"ready": ready}, 200 if ready else 503)

    async def server(self, _request: HttpRequest) -> HttpResponse:
        return json_response(to_dict(server_metadata("binary_tensor_data")))

    async def model(self, request: HttpRequest) -> HttpResponse:
        model = await self._requested(request)
        return json_response(to_dict(model_metadata(model, self._engine.versions(model.name))))

    async def model_ready(self, request: HttpRequest) -> HttpResponse:
        name = request.path_params["model"]
        with contextlib.suppress(NotLoadedError):  # the model's first call loads it
            name = self._engine.model(name, request.path_params.get("version", "")).name
        return json_response({"name": name, "ready": True})

    async def config(self, request: HttpRequest) -> HttpResponse:
        return json_response(to_dict(model_config(await self._requested(request))))

    async def examples(self, request: HttpRequest) -> HttpResponse:
        name, _, version = request.path_params["model"].partition("@")
        return json_response({"examples": examples((await self._intake.model(name, version)).signature)})

    async def _requested(self, request: HttpRequest) -> Servable:
        return await self._intake.model(request.path_params["model"], request.path_params.get("version", ""))

    async def statistics(self, request: HttpRequest) -> HttpResponse:
        requested = request.path_params
        statistics = await self._repository.statistics(requested.get("model", ""), requested.get("version", ""))
        return json_response(to_dict(statistics))

    async def index(self, request: HttpRequest) -> HttpResponse:
        ready = (await self._optional_json(request)).get("ready", False)
        if type(ready) is not bool:
            raise InvalidRequestError("'ready' must be true or false")
        return json_response(to_dict(await self._repository.index(ready=ready))["models"])

    async def load(self, request: HttpRequest) -> HttpResponse:
        self._require_own_site(request)
        parameters = parameters_of(await self._optional_json(request), "the request")
        await self._repository.load(request.path_params["model"], parameters)
        return json_response({})

    async def unload(self, request: HttpRequest) -> HttpResponse:
        self._require_own_site(request)
        await self._optional_json(request)  # parameters, such as unload_dependents, change nothing here
        await self._repository.unload(request.path_params["model"])
        return json_response({})

    async def _optional_json(self, request: HttpRequest) -> dict[str, Any]:
        body = await decompressed(request)
        return parse_json(body) if body.strip() else {}

    def _require_own_site(self, request: HttpRequest) -> None:
        """Raise ForeignOriginError if a page of another site sends this request through a user's browser.

        A browser names the page's site in ``Origin`` for every POST. The browser sends the request even if the page may
        not read the answer.
        """
        host, origin = request.header("host"), request.header("origin")
        if b"origin" in request.headers and origin.partition("://")[2] != host:
            raise ForeignOriginError(
                f"a page of {origin} may not load and unload models here; only this server's own pages may, and "
                "programs that send no Origin"
            )
        config = self._engine.config
        if config.token_file is None:  # a web page of another site has no token
            require_host(host, config.allowed_host)

    async def metrics(self, request: HttpRequest) -> HttpResponse:
        accept = request.header("accept")
        content, content_type = await self._repository.in_thread(lambda _: exposition(self._state, accept))
        return HttpResponse(content, content_type.encode())

    async def page(self, _request: HttpRequest) -> HttpResponse:
        text = self._files[_INDEX].replace(b"{grpc_port}", str(self._grpc_port()).encode())
        return HttpResponse(text, _TYPES[".html"], headers=_HEADERS)

    async def file(self, request: HttpRequest) -> HttpResponse:
        name = request.path_params["file"]
        if name == _INDEX or name not in self._files:
            return no_such_path()
        return HttpResponse(self._files[name], _TYPES[Path(name).suffix], headers=_HEADERS)
