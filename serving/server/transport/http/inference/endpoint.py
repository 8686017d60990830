"""Answers POST /v2/models/{model}/infer."""

from collections.abc import Mapping
from typing import Any

from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.transport.call import LARGE_MESSAGE, failures_recorded
from hangtag.serving.server.transport.http.bodies import read_body
from hangtag.serving.server.transport.http.body_budget import BodyBudget
from hangtag.serving.server.transport.http.calls import describe_call
from hangtag.serving.server.transport.http.inference.infer_query import HttpInferQuery
from hangtag.serving.server.transport.http.responses import HttpResponse
from hangtag.serving.server.transport.http.status import error_response
from hangtag.serving.server.transport.methods import HTTP_INFER
from hangtag.serving.server.transport.queries.loop_calls import LoopCalls
from hangtag.serving.server.transport.tracing import Tracing


class InferEndpoint:
    """The one route that is called often, so it is called without a router."""

    def __init__(self, engine: Engine, calls: LoopCalls, budget: BodyBudget, tracing: Tracing | None) -> None:
        """Answer for the models of an engine.

        Args:
            engine: Counts failures.
            calls: Submits requests.
            budget: Of the bodies in flight.
            tracing: Gets a span for each query; None records none.
        """
        self._engine = engine
        self._calls = calls
        self._tracing = tracing
        self._budget = budget

    async def answer(
        self, scope: Any, receive: Any, headers: Mapping[bytes, bytes], model: str, version: str
    ) -> HttpResponse:
        """Return the response to one request, or what went wrong."""
        origin = describe_call(HTTP_INFER, scope, self._tracing)
        with self._budget.hold() as held:
            with failures_recorded(self._engine, origin):
                body = await read_body(receive, headers, held)
            query = HttpInferQuery(model, version, body, headers, held)
            in_thread = len(body) >= LARGE_MESSAGE or b"content-encoding" in headers
            del body  # the query lets go of it when it is decoded
            try:
                response, _ = await self._calls.answer(query, origin, None, in_thread=in_thread)
            except Exception as error:
                return error_response(error, HTTP_INFER, query)
            assert isinstance(response, HttpResponse)
            return response
