"""The HTTP server, on the event loop that all transports share: admits each request, calls its endpoint, and turns
errors into responses."""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Sequence

from hangtag.serving.server.errors import MessageTooLargeError, QueueFullError, ServerError
from hangtag.serving.server.host.ports import HTTP, HTTP_SOCKET, bind, bind_unix
from hangtag.serving.server.telemetry.server_state import ServerState
from hangtag.serving.server.transport.http.bodies import BodyBudget
from hangtag.serving.server.transport.http.connection import Connection
from hangtag.serving.server.transport.http.endpoints import Endpoints, is_of_page
from hangtag.serving.server.transport.http.inference import HttpInferQuery, find_plan
from hangtag.serving.server.transport.http.messages import (
    HTTP_CLASSIFY,
    HTTP_INFER,
    HttpRequest,
    HttpResponse,
    error_response,
    no_such_path,
    require_host,
)
from hangtag.serving.server.wire.event_loop import LoopCalls
from hangtag.serving.server.wire.intake import Intake, Origin
from hangtag.serving.server.wire.plans import Plans
from hangtag.serving.server.wire.transport_call import LARGE_MESSAGE, submit, submit_on_thread

_BACKLOG = 2048
_POLL_SECONDS = 0.005
_CLOSE_SECONDS = 0.1
"""The minimum time for closing idle connections, even if the grace period is shorter."""
_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_CLASSIFY = "/v1/classify"
OPEN_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})
"""Paths that need no token, because probes of orchestrators and load balancers cannot send a token."""


class HttpServer:
    """Listens after ``start``. Inference requests, which are frequent, do not pass through the routes. All methods run
    on the loop, except the constructor."""

    def __init__(self, intake: Intake, state: Callable[[], ServerState], grpc_port: Callable[[], int]) -> None:
        """``state`` returns the state of all workers, for the metrics, and ``grpc_port`` returns the port of gRPC once
        the server listens, for the page."""
        self._config = config = intake.engine.config
        self.intake = intake
        self.calls = calls = LoopCalls(intake)
        endpoints = Endpoints(calls, state, grpc_port)
        self._routes = endpoints.routes()
        self._open_paths = OPEN_PATHS.union(config.platform_paths[:1])
        if config.platform_paths:
            from hangtag.serving.server.transport.http.platforms import PlatformEndpoints

            self._routes += PlatformEndpoints(calls, endpoints.ready, endpoints.classify).routes()
        self._plans = Plans()
        self.budget = BodyBudget(config.http_bodies_bytes)
        # python_multipart would log every malformed form
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL + 1)
        self.connections: set[Connection] = set()
        self.idle_seconds = config.connection_idle_seconds
        """A connection is closed after this long without a request."""
        self._listening: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen, and return the port, or 0 behind Envoy. Raises StartError if the address cannot be bound."""
        config, loop = self._config, asyncio.get_running_loop()
        if config.behind is None:
            listener = bind(config.host, config.http_port, HTTP, shared=config.workers > 1)
            port: int = listener.getsockname()[1]
        else:
            listener, port = bind_unix(config.behind / HTTP_SOCKET), 0
        create = loop.create_server if config.behind is None else loop.create_unix_server
        self._listening = await create(lambda: Connection(self), sock=listener, backlog=_BACKLOG)
        return port

    async def stop(self, grace: float) -> None:
        """Close the port and idle connections, and let requests in flight finish within ``grace`` seconds."""
        if self._listening is None:
            return
        self._listening.close()
        for connection in list(self.connections):
            connection.stop()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + max(grace, _CLOSE_SECONDS)
        while self.connections and loop.time() < deadline:
            await asyncio.sleep(_POLL_SECONDS)
        for connection in list(self.connections):
            connection.transport.abort()

    def admit(self, request: HttpRequest) -> HttpResponse | None:
        """Return the response that refuses a request before its body arrives, or None if the request is admitted."""
        # int() cannot fail, because httptools accepts only digits
        declared = int(request.headers.get(b"content-length", b"0"))
        names = self._config.allowed_host  # if the operator lists no names, every host is accepted
        is_guarded = names or not self.intake.all_admitted
        if not is_guarded and declared <= self.intake.max_message_bytes:
            return None
        if request.path in self._open_paths or is_of_page(request.path):
            return None
        try:
            if names:
                require_host(request.header("host"), names)
            self.intake.admit(request.metadata)
            self.intake.require_size("Received", declared)
        except ServerError as error:
            return self._refuse(request, error)
        return None

    def take(self, request: HttpRequest, part: bytes) -> HttpResponse | None:
        """Add received bytes to a request's body, or return the response that refuses the request."""
        try:
            size = len(request.body) + len(part)
            self.intake.require_size("Received", size)
            self.budget.hold(request, size)
        except ServerError as error:
            request.body = b""
            return self._refuse(request, error)
        if not request.body:
            request.body = part
        elif isinstance(request.body, bytearray):
            request.body += part
        else:
            request.body = bytearray(request.body) + part  # a list of one-byte parts would take much more memory
        return None

    def answer(self, request: HttpRequest) -> None:
        """Answer a complete request. The server takes the request's body, and may set the outcome at once."""
        request.started = time.perf_counter_ns()
        if (plan := find_plan(self._plans, request)) is not None:
            body = request.take_body()
            if plan.put(request, body):
                return
            request.body = body
        match = _INFER.fullmatch(request.path)
        if match is None or request.verb != "POST":
            request.task = asyncio.get_running_loop().create_task(self._answer_later(request))
            return
        is_large = len(request.body) >= LARGE_MESSAGE or b"content-encoding" in request.headers
        query = HttpInferQuery(match[1], match[2] or "", request, None if is_large else self._plans)
        if is_large:
            submit_on_thread([request], [query])
        else:
            submit(request, query)

    def _refuse(self, request: HttpRequest, error: ServerError) -> HttpResponse:
        """Return the response for a request that is not read. A refused caller gets no span."""
        method = ""
        if isinstance(error, MessageTooLargeError | QueueFullError):
            is_classify = request.path.startswith(_CLASSIFY)
            method = HTTP_INFER if _INFER.fullmatch(request.path) else HTTP_CLASSIFY if is_classify else ""
        self.intake.record_failure(Origin(method, request.metadata), error)
        return error_response(error, f"{request.verb} {request.path}")

    async def _answer_later(self, request: HttpRequest) -> None:
        """Answer with the first route that matches."""
        others: Sequence[str] = ["POST"] if _INFER.fullmatch(request.path) else ()
        response: HttpResponse | None = None
        try:
            for route in self._routes:
                if (match := route.pattern.fullmatch(request.path)) is None:
                    continue
                if request.verb in route.methods:
                    request.path_params = match.groupdict()
                    response = await route.endpoint(request)
                    break
                others = others or route.methods
        except Exception as error:
            response = error_response(error, f"{request.verb} {request.path}")
        request.outcome = response or no_such_path(others)
        request.resolve()
