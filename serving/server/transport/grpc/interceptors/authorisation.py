"""Refuse calls without a valid token, before their messages are received."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH

from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.errors import UnauthenticatedError
from hangtag.serving.server.transport.security.tokens import Authorise, Metadata
from hangtag.serving.server.transport.submission import Call, failures_recorded

OPEN_PREFIX = f"/{HEALTH}/"
"""Methods that need no token: probes of orchestrators and load balancers cannot send one, and health reveals no more
than whether a model serves."""


class AuthorisationInterceptor(grpc.ServerInterceptor):
    """Ends every call that ``authorise`` refuses with UNAUTHENTICATED, except calls to health."""

    def __init__(self, authorise: Authorise) -> None:
        self._authorise = authorise

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        if not handler_call_details.method.startswith(OPEN_PREFIX):
            try:
                self._authorise(handler_call_details.invocation_metadata)
            except UnauthenticatedError as error:
                return _refusal(str(error))
        return continuation(handler_call_details)


def record_refusals(authorise: Authorise, engine: Engine) -> Authorise:
    """``authorise``, with each refusal counted as a failure."""

    def authorise_and_count(metadata: Metadata) -> None:
        with failures_recorded(engine, Call("")):
            authorise(metadata)

    return authorise_and_count


def _refusal(message: str) -> Any:
    def refuse(_requests: Iterator[bytes], context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, message)

    # For a method of any kind: grpcio calls the handler of a request stream before it receives a message.
    return grpc.stream_unary_rpc_method_handler(refuse)
