"""Answers HTTP requests: admits each request, calls its endpoint, and turns errors into responses."""

import asyncio
import re
from collections.abc import Sequence
from typing import TypeAlias

from hangtag.serving.server.errors import ServerError
from hangtag.serving.server.transport.http.bodies import BodyBudget, HeldBytes
from hangtag.serving.server.transport.http.endpoints import HostNames, is_of_page
from hangtag.serving.server.transport.http.infer_plans import Done, HttpCall, HttpPlans
from hangtag.serving.server.transport.http.infer_query import HttpInferQuery
from hangtag.serving.server.transport.http.messages import (
    HTTP_CLASSIFY,
    HTTP_INFER,
    HttpRequest,
    HttpResponse,
    PathError,
    Route,
    answer,
    error_response,
    origin_of,
    request_metadata,
)
from hangtag.serving.server.wire.event_loop import LoopCalls
from hangtag.serving.server.wire.intake import Callers, Origin
from hangtag.serving.server.wire.transport_call import LARGE_MESSAGE, submit_message

_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_CLASSIFY = "/v1/classify"
OPEN_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})
"""Paths that need no token, because probes of orchestrators and load balancers cannot send a token."""
Answering: TypeAlias = "HttpCall | asyncio.Task[None]"
"""A request that is being answered, and is cancelled when its client leaves."""


class Application:
    """Serves HTTP requests. Inference requests, which are frequent, do not pass through the routes."""

    def __init__(self, calls: LoopCalls, routes: Sequence[Route]) -> None:
        """Join the parts that answer. ``calls`` submit inference, and ``routes`` answer all other requests."""
        self._intake = calls.intake
        self._calls = calls
        self._routes = routes
        config = calls.intake.engine.config
        self.callers = Callers(calls.intake.authorise)
        """The check of callers, except for requests to health and the page. During a stop, each connection is closed
        after its next response."""
        self._names = HostNames(config.allowed_host) if config.allowed_host else None  # None accepts every host
        self._open_paths = OPEN_PATHS.union(config.platform_paths[:1])
        self._plans = HttpPlans(calls.intake.engine)
        self._budget = BodyBudget(config.http_bodies_bytes)

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
        """Keep a part of a body. Return the response that refuses the request because of this part, or None."""
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
            request: The request. Its body is removed.
            done: Gets the response once, on the event loop, perhaps before this method returns.

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
            done(request, self._refusal(request, PathError(["POST"])))
            return call
        is_large = len(request.body) >= LARGE_MESSAGE or b"content-encoding" in request.headers
        learn = None if is_large else self._plans.learner(request)
        query = HttpInferQuery(match[1], match[2] or "", request, learn)
        submit_message(call, lambda: query, is_large=is_large)
        return call

    async def _answer_later(self, request: HttpRequest, done: Done) -> None:
        try:
            response = await answer(self._routes, request)
        except Exception as error:
            response = self._refusal(request, error)
        done(request, response)

    def _origin(self, request: HttpRequest) -> Origin:
        if _INFER.fullmatch(request.path):
            return origin_of(HTTP_INFER, request)
        if request.path.startswith(_CLASSIFY):
            return origin_of(HTTP_CLASSIFY, request)
        return Origin("")

    def _refusal(self, request: HttpRequest, error: Exception) -> HttpResponse:
        return error_response(error, f"{request.method} {request.path}")
