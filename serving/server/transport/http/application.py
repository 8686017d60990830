"""The ASGI application: admits requests, calls the route of each, and turns errors into responses."""

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from starlette.exceptions import HTTPException
from starlette.routing import Router

from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.errors import STOPPING, UnavailableError
from hangtag.serving.server.transport.call import CallOrigin, failures_recorded
from hangtag.serving.server.transport.http.calls import request_headers
from hangtag.serving.server.transport.http.host_names import HostNames
from hangtag.serving.server.transport.http.inference.endpoint import InferEndpoint
from hangtag.serving.server.transport.http.page.endpoint import is_of_page
from hangtag.serving.server.transport.http.responses import HttpResponse
from hangtag.serving.server.transport.http.status import error_response
from hangtag.serving.server.transport.security.tokens import Authorise

_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
OPEN_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})
"""Paths that need no token, beside the page's: probes of orchestrators and load balancers cannot send one."""
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 64 * 1024 * 1024


class Application:
    """Serves HTTP requests. A plain callable finds the route of inference, which is called often, and a router all
    others: with the router calls with 64 connections took a third longer."""

    def __init__(
        self,
        engine: Engine,
        infer: InferEndpoint,
        router: Router,
        authorise: Authorise | None,
        stopping: Callable[[], bool],
        names: HostNames | None = None,
    ) -> None:
        """Join the routes.

        Args:
            engine: Counts refused callers.
            infer: Answers inference.
            router: Has all other routes. Their endpoints raise domain errors.
            authorise: Checks every request but those to health and the page; None lets everybody call.
            stopping: Whether requests but those to health and the page are refused, and each connection is closed
                after its next response.
            names: Requests but those to health and the page are refused for other hosts; None takes every host.
        """
        self._engine = engine
        self._infer = infer
        self._router = router
        self._authorise = authorise
        self._stopping = stopping
        self._names = names

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        try:
            self._admit(scope, path)
            if match := _INFER.fullmatch(path):
                _require_post(scope["method"])
                headers = dict(scope["headers"])
                response = await self._infer.answer(scope, receive, headers, match[1], match[2] or "")
            else:
                scope["app"] = self  # so that the router raises for a path or a method that it does not have
                await self._router(scope, receive, send)
                return
        except Exception as error:
            response = error_response(error, f"{scope['method']} {path}")
        if self._stopping():
            response.headers.append((b"connection", b"close"))
        if response.status == 413:
            await _send_before_the_rest(response, receive, send)
        else:
            await response(scope, receive, send)

    def _admit(self, scope: Any, path: str) -> None:
        if path in OPEN_PATHS or is_of_page(path):
            return
        if self._names is not None:
            with failures_recorded(self._engine, CallOrigin("")):
                self._names.require(dict(scope["headers"]).get(b"host", b"").decode("latin-1"))
        if self._authorise is not None:
            with failures_recorded(self._engine, CallOrigin("")):
                self._authorise(request_headers(scope))
        if self._stopping():
            raise UnavailableError(STOPPING)


def _require_post(method: str) -> None:
    if method != "POST":
        raise HTTPException(405, headers={"Allow": "POST"})


async def _send_before_the_rest(response: HttpResponse, receive: Any, send: Any) -> None:
    """Send a response to a client that still sends, and read on for a while: if the connection were closed at once,
    the client's machine would drop the response."""
    await send({"type": "http.response.start", "status": response.status, "headers": response.headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    remaining = _LINGER_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            more = True
            while more and remaining > 0:
                message = await receive()
                more = message.get("more_body", False)
                remaining -= len(message.get("body", b""))
    await send({"type": "http.response.body", "body": b""})
