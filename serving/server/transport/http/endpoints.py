"""All endpoints except inference: health, descriptions of the server and its models, the model repository, the
statistics, the metrics, classification, and the page with its files."""

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httptools
from google.protobuf.message import Message

from hangtag.protos import inference_pb2 as pb
from hangtag.protos.classifier_pb2 import CompareRequest, ModelChoice
from hangtag.serving.server.errors import ForeignOriginError, InvalidRequestError, NotLoadedError
from hangtag.serving.server.telemetry.prometheus import exposition
from hangtag.serving.server.telemetry.server_state import ServerState
from hangtag.serving.server.transport.http.bodies import decompressed, parse_form
from hangtag.serving.server.transport.http.infer_json import parameters_of, parse_json
from hangtag.serving.server.transport.http.messages import (
    HTTP_CLASSIFY,
    Endpoint,
    HttpRequest,
    HttpResponse,
    Route,
    cost_headers,
    error_response,
    json_response,
    no_such_path,
    require_host,
    route,
    to_dict,
)
from hangtag.serving.server.wire.event_loop import LoopCalls
from hangtag.serving.server.wire.image_query import MAX_COMPARED, compare_queries, examples
from hangtag.serving.server.wire.intake import Origin
from hangtag.serving.server.wire.model_queries import require_no_parameters
from hangtag.serving.server.wire.plans import TIMEOUT, earlier_deadline
from hangtag.serving.server.wire.status import call_status, status

_UINT32_MAX = 2**32 - 1
_NUMBERS = {"top_k": _UINT32_MAX, "height": _UINT32_MAX, "width": _UINT32_MAX, TIMEOUT: 2**63 - 1}
"""The parameters that are numbers, and their largest values."""


PAGE_FILES = "/page/"
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
# The files change with the server's version, so browsers must not store them.
_HEADERS = (
    f"content-security-policy: {_POLICY}\r\nx-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\n"
    "cache-control: no-store\r\n"
).encode()


class Endpoints:
    """Answers the requests of all paths except those for inference. Only the metrics, the repository and the statistics
    describe the models of all workers."""

    def __init__(self, calls: LoopCalls, state: Callable[[], ServerState], grpc_port: Callable[[], int]) -> None:
        """``state`` returns the state of all workers, for the metrics. ``grpc_port`` returns the port of gRPC, once the
        server listens, for the page's examples."""
        self._calls = calls
        self._intake = intake = calls.intake
        self._engine = intake.engine
        self._models = intake.models
        self._state = state
        self._grpc_port = grpc_port
        # the files are read at startup, so no request reads a disk
        paths = () if intake.engine.config.no_page else [path for path in _STATIC.rglob("*") if path.is_file()]
        self._files = {path.relative_to(_STATIC).as_posix(): path.read_bytes() for path in paths}

    def routes(self) -> list[Route]:
        """Return the routes. The first route that matches a path answers."""
        models = self._models
        statistics = _translated(models.ModelStatistics, pb.ModelStatisticsRequest)
        routes = [
            route("/v2/models/stats", statistics),  # of all models
            route("/v2", self.server),
            route("/openapi.json", self.openapi),
            route("/metrics", self.metrics),
            route("/v2/health/live", _translated(models.ServerLive, pb.ServerLiveRequest)),
            route("/v2/health/ready", self.ready),
            route("/v1/examples/{model}", self.examples),
            route("/v2/repository/index", self.index, "POST"),
            route("/v2/repository/models/{model_name}/load", self.load, "POST"),
            route("/v2/repository/models/{model_name}/unload", self.unload, "POST"),
            route("/v1/classify", self.classify, "POST"),  # compares all classifiers that are served
            route("/v1/classify/{models}", self.classify, "POST"),
        ]
        for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            routes += [
                route(path, _translated(models.ModelMetadata, pb.ModelMetadataRequest)),
                route(f"{path}/stats", statistics),
                route(f"{path}/ready", self.model_ready),
                route(f"{path}/config", _translated(models.ModelConfig, pb.ModelConfigRequest, "config")),
            ]
        if self._files:
            routes += [route("/", self.file), route(f"{PAGE_FILES}{{file:path}}", self.file)]
        return routes

    async def openapi(self, _request: HttpRequest) -> HttpResponse:
        description = json.loads((Path(__file__).parent / "openapi.json").read_bytes())
        description["info"]["version"] = metadata.version("hangtag")
        return json_response(description)

    async def ready(self, _request: HttpRequest) -> HttpResponse:
        ready = self._engine.ready
        return json_response({"ready": ready}, 200 if ready else 503)

    async def server(self, _request: HttpRequest) -> HttpResponse:
        server = await self._models.ServerMetadata(pb.ServerMetadataRequest())
        server.extensions.append("binary_tensor_data")
        return json_response(to_dict(server))

    async def model_ready(self, request: HttpRequest) -> HttpResponse:
        name = request.path_params["name"]
        with contextlib.suppress(NotLoadedError):  # the model's first call loads it
            name = self._engine.model(**request.path_params).name
        return json_response({"name": name, "ready": True})

    async def examples(self, request: HttpRequest) -> HttpResponse:
        name, _, version = request.path_params["model"].partition("@")
        return json_response({"examples": examples((await self._models.model(name, version)).signature)})

    async def index(self, request: HttpRequest) -> HttpResponse:
        ready = (await self._optional_json(request)).get("ready", False)
        if type(ready) is not bool:
            raise InvalidRequestError("'ready' must be true or false")
        return json_response(
            to_dict(await self._models.RepositoryIndex(pb.RepositoryIndexRequest(ready=ready)))["models"]
        )

    async def load(self, request: HttpRequest) -> HttpResponse:
        self._require_own_site(request)
        require_no_parameters(parameters_of(await self._optional_json(request), "the request"))
        await self._models.RepositoryModelLoad(pb.RepositoryModelLoadRequest(**request.path_params))
        return json_response({})

    async def unload(self, request: HttpRequest) -> HttpResponse:
        self._require_own_site(request)
        await self._optional_json(request)  # parameters, such as unload_dependents, change nothing here
        await self._models.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(**request.path_params))
        return json_response({})

    async def _optional_json(self, request: HttpRequest) -> dict[str, Any]:
        body = await decompressed(request)
        return parse_json(body) if body.strip() else {}

    def _require_own_site(self, request: HttpRequest) -> None:
        """Raise ForeignOriginError if a page of another site sends this request through a user's browser. A browser
        names the page's site in ``Origin`` for every POST."""
        host, origin = request.header("host"), request.header("origin")
        if b"origin" in request.headers and origin.partition("://")[2] != host:
            raise ForeignOriginError(
                f"a page of {origin} may not load or unload models here; this is allowed only for this server's own "
                "pages and for programs that send no Origin header"
            )
        config = self._engine.config
        if config.token_file is None:  # a web page of another site has no token
            require_host(host, config.allowed_host)

    async def metrics(self, request: HttpRequest) -> HttpResponse:
        accept = request.header("accept")
        content, content_type = await self._models.in_thread(lambda _: exposition(self._state, accept))
        return HttpResponse(content, content_type.encode())

    async def file(self, request: HttpRequest) -> HttpResponse:
        name = request.path_params.get("file", _INDEX)
        if name not in self._files or request.path == PAGE_FILES + _INDEX:
            return no_such_path()
        content = self._files[name].replace(b"{grpc_port}", str(self._grpc_port()).encode())
        return HttpResponse(content, _TYPES[Path(name).suffix], headers=_HEADERS)

    async def classify(self, request: HttpRequest) -> HttpResponse:
        origin, intake, started = Origin(HTTP_CLASSIFY, request.metadata), self._intake, time.perf_counter_ns()
        fields: list[tuple[str, str]] = []
        try:
            image = await decompressed(request)
            content_type = request.header("content-type")
            if content_type.lower().startswith("multipart/form-data"):
                image, fields = await asyncio.to_thread(parse_form, content_type, image)  # others continue meanwhile
            query_string = httptools.parse_url(request.target).query or b""
            fields += parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
            numbers = _numbers(fields)
            # NAME or NAME@VERSION, separated by commas. A request may have thousands of names, so only the first
            # MAX_COMPARED names are split off.
            listed = [request.path_params.get("models", ""), *(value for name, value in fields if name == "model")]
            named = [text.strip().partition("@") for each in listed for text in each.split(",", MAX_COMPARED)]
            choices = [ModelChoice(name=name, version=version) for name, at, version in named if name or at]
            if (timeout := numbers.get(TIMEOUT)) is not None:
                origin = origin._replace(deadline=earlier_deadline(timeout, None))
            message = CompareRequest(models=choices, top_k=numbers.get("top_k", 0))
            if "height" in numbers:  # raw 8-bit pixels, row by row, in the model's size
                raw = message.raw
                raw.height, raw.width, raw.pixels = numbers["height"], numbers["width"], image
            else:
                message.encoded = image
            queries = compare_queries(message, intake.engine)
        except Exception as error:
            intake.record_failure(origin, error, started)
            raise
        calls = await self._calls.outcomes(origin, queries)
        if len(choices) != 1:
            outcomes: list[dict[str, Any]] = [{"model_name": query.model_name} for query in queries]
            for outcome, query, call in zip(outcomes, queries, calls, strict=True):
                try:
                    outcome["answer"] = to_dict(call.response())
                except Exception as error:
                    reason = call_status(error, HTTP_CLASSIFY, query)[1]
                    outcome |= {"error": reason, "status": status(error).http}
            return json_response({"outcomes": outcomes})
        try:
            answer, timings = calls[0].response(), calls[0].timings
        except Exception as error:  # the log names the model
            return error_response(error, HTTP_CLASSIFY, queries[0])
        headers = cost_headers(answer.model_name, answer.model_version, timings, answer.timings.preprocess_ns)
        return json_response(to_dict(answer), headers=headers)


def _translated(method: Callable[[Any], Awaitable[Message]], message: type[Message], key: str = "") -> Endpoint:
    """Return an endpoint that calls a gRPC ``method``. The path's parameters become the fields of the request
    ``message``. ``key`` is the field to return, if not the whole response."""

    async def endpoint(request: HttpRequest) -> HttpResponse:
        response = to_dict(await method(message(**request.path_params)))
        return json_response(response[key] if key else response)

    return endpoint


def _numbers(fields: list[tuple[str, str]]) -> dict[str, int]:
    """Return the parameters that are numbers. If a parameter is given twice, the first value counts. Raises
    InvalidRequestError, also for unknown parameters, which may be misspelt."""
    numbers: dict[str, int] = {}
    for name, text in fields:
        if name == "model":
            continue
        if name not in _NUMBERS:
            known = ", ".join(("model", *_NUMBERS))
            raise InvalidRequestError(f"unknown parameter {name[:64]!r}; known parameters: {known}")
        most = _NUMBERS[name]
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and int(text) <= most):
            raise InvalidRequestError(f"the parameter {name!r} must be a whole number from 0 to {most}")
        numbers.setdefault(name, int(text))
    if ("height" in numbers) != ("width" in numbers):
        raise InvalidRequestError("raw pixels need both parameters, 'height' and 'width'")
    return numbers
