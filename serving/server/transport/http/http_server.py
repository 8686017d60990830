"""The HTTP server, on the event loop that all transports share: admits each request, calls its endpoint, and turns
errors into responses."""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from hangtag.serving.server.errors import MessageTooLargeError, QueueFullError, ServerError
from hangtag.serving.server.host.ports import HTTP, HTTP_SOCKET, bind, bind_unix
from hangtag.serving.server.telemetry.server_state import ServerState
from hangtag.serving.server.transport.http.bodies import BodyBudget
from hangtag.serving.server.transport.http.connection import Connection
from hangtag.serving.server.transport.http.endpoints import PAGE_FILES, Endpoints
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
"""Connections get at least this many seconds to close, even if the grace period is shorter."""
_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_OPEN_PATHS = frozenset({"/", "/v2/health/live", "/v2/health/ready"})
"""Paths that need no token: the page asks for one, and probes of orchestrators and load balancers cannot send one."""


class HttpServer:
    """Listens after ``start``. Inference requests, which are frequent, do not pass through the routes. All methods run
    on the loop, except the constructor."""

    def __init__(self, intake: Intake, state: Callable[[], ServerState], grpc_port: Callable[[], int]) -> None:
        """See `Endpoints`."""
        self._config = config = intake.engine.config
        self.intake = intake
        self.calls = calls = LoopCalls(intake)
        endpoints = Endpoints
        if config.platform_paths:
            from hangtag.serving.server.transport.http.platforms import PlatformEndpoints

            endpoints = PlatformEndpoints
        self._routes = endpoints(calls, state, grpc_port).routes()
        self._open_paths = _OPEN_PATHS.union(config.platform_paths[:1])
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
        create: Any = loop.create_unix_server
        if config.behind is not None:
            listener, port = bind_unix(config.behind / HTTP_SOCKET), 0
        else:
            listener = bind(config.host, config.http_port, HTTP, shared=config.workers > 1)
            port, create = listener.getsockname()[1], loop.create_server
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
        declared = int(request.headers.get(b"content-length", b"0"))  # httptools accepts only digits
        names = self._config.allowed_host  # if the operator lists no names, every host is accepted
        if not names and self.intake.all_admitted and declared <= self.intake.max_message_bytes:
            return None
        if request.path in self._open_paths or request.path.startswith(PAGE_FILES):
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
        if request.body and isinstance(request.body, bytes):
            request.body = bytearray(request.body)  # a list of one-byte parts would take much more memory
        request.body += part
        return None

    def answer(self, request: HttpRequest) -> None:
        request.started = time.perf_counter_ns()
        plan = find_plan(self._plans, request)
        if plan is not None and plan.put(request, bytes(request.body)):
            request.body = b""
            return
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
        """Return the response to a request that is refused before all of it is read. A refused caller gets no span."""
        method = ""
        if isinstance(error, MessageTooLargeError | QueueFullError):
            is_classify = request.path.startswith("/v1/classify")
            method = HTTP_INFER if _INFER.fullmatch(request.path) else HTTP_CLASSIFY if is_classify else ""
        self.intake.record_failure(Origin(method, request.metadata), error)
        return error_response(error, f"{request.verb} {request.path}")

    async def _answer_later(self, request: HttpRequest) -> None:
        others: Sequence[str] = ["POST"] if _INFER.fullmatch(request.path) else ()
        response: HttpResponse | None = None
        try:
            for pattern, endpoint, methods in self._routes:
                if (match := pattern.fullmatch(request.path)) is None:
                    continue
                if request.verb in methods:
                    request.path_params = match.groupdict()
                    response = await endpoint(request)
                    break
                others = others or methods
        except Exception as error:
            response = error_response(error, f"{request.verb} {request.path}")
        request.outcome = response or no_such_path(others)
        request.resolve()
