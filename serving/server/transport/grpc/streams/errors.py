"""What ../status.py does for single calls, for streams: how they end."""

import functools
from collections.abc import Callable, Iterator
from typing import TypeVar

import grpc

from hangtag.serving.server.transport.status import call_status, request_log_fields

Servicer = TypeVar("Servicer")
Request = TypeVar("Request")
Response = TypeVar("Response")


def ends_with_errors(
    method: Callable[[Servicer, Request, grpc.ServicerContext], Iterator[Response]],
) -> Callable[[Servicer, Request, grpc.ServicerContext], Iterator[Response]]:
    """answers_errors for a method that answers with a stream."""

    @functools.wraps(method)
    def answering(servicer: Servicer, request: Request, context: grpc.ServicerContext) -> Iterator[Response]:
        try:
            yield from method(servicer, request, context)
        except Exception as error:
            identity = request_log_fields(request, context.invocation_metadata())
            context.abort(*call_status(error, method.__name__, identity))

    return answering
