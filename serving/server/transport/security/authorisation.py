"""Asks every call for what proves that it may call, before its message is even received."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH

from hangtag.serving.server.errors import UnauthenticatedError
from hangtag.serving.server.transport.security.tokens import Authorise

OPEN = f"/{HEALTH}/"
"""Health is open to all: probes of orchestrators and balancers cannot bring a token, and it tells nothing else."""


class AuthorisesCalls(grpc.ServerInterceptor):
    """Ends a call that may not be made with UNAUTHENTICATED."""

    def __init__(self, authorise: Authorise) -> None:
        self._authorise = authorise

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        if not handler_call_details.method.startswith(OPEN):
            try:
                self._authorise(handler_call_details.invocation_metadata)
            except UnauthenticatedError as error:
                return _refusing(str(error))
        return continuation(handler_call_details)


def _refusing(message: str) -> Any:
    def refuse(_requests: Iterator[bytes], context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, message)

    # Whatever the method is: a handler of a stream is called before anything of it is received.
    return grpc.stream_unary_rpc_method_handler(refuse)
