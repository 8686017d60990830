"""The HTTP server, on the event loop that all transports share: admits each request, calls its endpoint, and turns
errors into responses.
"""

import asyncio
import logging
import re
import socket
from collections.abc import Callable, Sequence
from typing import TypeAlias

from hangtag.serving.server.errors import ServerError
from hangtag.serving.server.host.ports import HTTP, HTTP_SOCKET, bind, bind_unix
from hangtag.serving.server.telemetry.server_state import ServerState
from hangtag.serving.server.transport.http.bodies import BodyBudget, HeldBytes
from hangtag.serving.server.transport.http.classify_endpoint import ClassifyEndpoint
from hangtag.serving.server.transport.http.connection import Connection
from hangtag.serving.server.transport.http.endpoints import HostNames, ModelEndpoints, PageEndpoint, is_of_page
from hangtag.serving.server.transport.http.inference import Done, HttpCall, HttpInferQuery, HttpPlans
from hangtag.serving.server.transport.http.messages import (
    HTTP_CLASSIFY,
    HTTP_INFER,
    HttpRequest,
    HttpResponse,
    error_response,
    no_such_path,
    origin_of,
    request_metadata,
)
from hangtag.serving.server.transport.http.platforms import PlatformEndpoints
from hangtag.serving.server.wire.event_loop import LoopCalls, run
from hangtag.serving.server.wire.intake import Intake, Origin
from hangtag.serving.server.wire.transport_call import LARGE_MESSAGE, submit_message

_BACKLOG = 2048
_CLOSE_SECONDS = 0.1
"""The time for closing idle connections, even if the grace period is shorter."""
_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_CLASSIFY = "/v1/classify"
OPEN_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})
"""Paths that need no token, because probes of orchestrators and load balancers cannot send a token."""
Answering: TypeAlias = "HttpCall | asyncio.Task[None]"
"""A request that is being answered, and is cancelled when its client leaves."""


class HttpServer:
    """Listens after ``start``. Inference requests, which are frequent, do not pass through the routes.

    ``start`` and ``stop`` may be called from any thread except the loop's. All other methods run on the loop.
    """

    def __init__(self, intake: Intake, state: Callable[[], ServerState], grpc_port: Callable[[], int]) -> None:
        """Build the server, which does not listen yet.

        Args:
            intake: The intake that all transports share.
            state: Returns the state of all workers, for the metrics.
            grpc_port: Returns the port of gRPC, for the page. The server calls this function after it has started to
                listen.
        """
        self._config = config = intake.engine.config
        self._intake = intake
        self.callers = intake.callers
        """The check of callers. During a stop, each connection is closed after its next response."""
        self._calls = calls = LoopCalls(intake)
        models, classifiers = ModelEndpoints(intake, state), ClassifyEndpoint(calls)
        self._routes = [*models.routes(), *classifiers.routes()]
        self._open_paths = OPEN_PATHS.union(config.platform_paths[:1])
        if config.platform_paths:
            self._routes += PlatformEndpoints(calls, models.ready, classifiers.classify).routes()
        if not config.no_page:
            self._routes += PageEndpoint(grpc_port).routes()
        # If the operator lists no names, every host is accepted.
        self._names = HostNames(config.allowed_host) if config.allowed_host else None
        self._plans = HttpPlans(intake.engine)
        self._budget = BodyBudget(config.http_bodies_bytes)
        # python_multipart would log every malformed form
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL + 1)
        self.connections: set[Connection] = set()
        """The open connections."""
        self.idle_seconds = config.connection_idle_seconds
        """A connection is closed after this long without a request."""
        self._listening: asyncio.Server | None = None

    def start(self) -> int:
        """Listen, and return the port, or 0 behind Envoy. Raises StartError if the address cannot be bound."""
        config = self._config
        if config.behind is None:
            listener = bind(config.host, config.http_port, HTTP, shared=config.workers > 1)
            port: int = listener.getsockname()[1]
        else:
            listener, port = bind_unix(config.behind / HTTP_SOCKET), 0
        listener.listen(_BACKLOG)
        run(self._start(listener))
        return port

    def stop(self, grace: float) -> None:
        """Close the port and idle connections, and let requests in flight finish within ``grace`` seconds."""
        if self._listening is not None:
            run(self._stop(self._listening, max(grace, _CLOSE_SECONDS)))

    def hold(self) -> HeldBytes:
        """Return the object that counts the bytes of one body."""
        return HeldBytes(self._budget, self._intake.max_message_bytes)

    def admit(self, request: HttpRequest) -> HttpResponse | None:
        """Return the response that refuses a request before its body arrives, or None if the request is admitted."""
        # int() cannot fail, because httptools accepts only digits
        declared = int(request.headers.get(b"content-length", b"0"))
        is_guarded = self._names is not None or not self.callers.all_admitted
        if not is_guarded and declared <= self._intake.max_message_bytes:
            return None
        if request.path in self._open_paths or is_of_page(request.path):
            return None
        origin = Origin("")
        try:
            if self._names is not None:
                self._names.require(request.headers.get(b"host", b"").decode("latin-1"))
            self.callers.admit(request_metadata(request))
            origin = self._origin(request)
            self._intake.require_size("Received", declared)
        except ServerError as error:
            self._intake.record_failure(origin, error)
            return self._refusal(request, error)
        return None

    def take(self, request: HttpRequest, part: bytes) -> HttpResponse | None:
        """Add received bytes to a request's body. Return a response that refuses the request, or None if the bytes are
        accepted."""
        try:
            size = len(request.body) + len(part)
            self._intake.require_size("Received", size)
            request.held.hold(size)
        except ServerError as error:
            request.body = b""
            self._intake.record_failure(self._origin(request), error)
            return self._refusal(request, error)
        if not request.body:
            request.body = part
        elif isinstance(request.body, bytearray):
            request.body += part
        else:
            request.body = bytearray(request.body) + part  # a list of one-byte parts would take much more memory
        return None

    def answer(self, request: HttpRequest, done: Done) -> Answering:
        """Answer a complete request.

        Args:
            request: The request. The server removes the request's body.
            done: A function that is called once with the response, on the event loop, and may be called before this
                method returns.

        Returns:
            The object to cancel when the client leaves.
        """
        call = HttpCall(self._calls, request, done)
        if (plan := self._plans.of(request)) is not None:
            body = request.take_body()
            if call.put_planned(plan, body):
                return call
            request.body = body
        match = _INFER.fullmatch(request.path)
        if match is None:
            return asyncio.get_running_loop().create_task(self._answer_later(request, done))
        if request.method != "POST":
            done(request, no_such_path(["POST"]))
            return call
        is_large = len(request.body) >= LARGE_MESSAGE or b"content-encoding" in request.headers
        query = HttpInferQuery(match[1], match[2] or "", request, None if is_large else self._plans)
        submit_message(call, lambda: query, is_large=is_large)
        return call

    async def _answer_later(self, request: HttpRequest, done: Done) -> None:
        """Answer with the first route that matches."""
        response: HttpResponse | None = None
        others: Sequence[str] = ()
        try:
            for route in self._routes:
                if (match := route.pattern.fullmatch(request.path)) is None:
                    continue
                if request.method in route.methods:
                    request.path_params = match.groupdict()
                    response = await route.endpoint(request)
                    break
                others = others or route.methods
        except Exception as error:
            response = self._refusal(request, error)
        done(request, response or no_such_path(others))

    def _origin(self, request: HttpRequest) -> Origin:
        if _INFER.fullmatch(request.path):
            return origin_of(HTTP_INFER, request)
        if request.path.startswith(_CLASSIFY):
            return origin_of(HTTP_CLASSIFY, request)
        return Origin("")

    def _refusal(self, request: HttpRequest, error: Exception) -> HttpResponse:
        return error_response(error, f"{request.method} {request.path}")

    async def _start(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        create = loop.create_unix_server if listener.family == socket.AF_UNIX else loop.create_server
        self._listening = await create(lambda: Connection(self), sock=listener, backlog=_BACKLOG)

    async def _stop(self, listening: asyncio.Server, seconds: float) -> None:
        listening.close()
        for connection in list(self.connections):
            connection.stop()
        if closed := [connection.closed for connection in self.connections]:
            await asyncio.wait(closed, timeout=seconds)
        # A connection is still open if its client does not read, or if a request takes longer.
        for connection in list(self.connections):
            connection.abort()
