"""What ../status.py does for single calls, for streams: how they end, and what becomes of bytes that are no message."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError

from serving.server.errors import InvalidRequestError
from serving.server.transport.status import Handler, identity_of, malformed, status_of

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
            identity = identity_of(request, context.invocation_metadata())
            context.abort(*status_of(error, method.__name__, identity))

    return answering


class RefusesMalformedStreams(grpc.ServerInterceptor):
    """Bytes that are no message are the caller's error in streams too: a stream ends where they come."""

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler
        method, serializer = handler_call_details.method, handler.response_serializer
        parse = _parser(handler.request_deserializer, method)
        if (answer_each := handler.stream_stream) is not None:
            return grpc.stream_stream_rpc_method_handler(
                lambda messages, context: _ending(lambda: answer_each(map(parse, messages), context), context, method),
                response_serializer=serializer,
            )
        if (answer_one := handler.unary_stream) is not None:
            return grpc.unary_stream_rpc_method_handler(
                lambda message, context: _ending(lambda: answer_one(parse(message), context), context, method),
                response_serializer=serializer,
            )
        return handler


def _parser(parse: Callable[[bytes], Any], method: str) -> Callable[[bytes], Any]:
    def parsed(message: bytes) -> Any:
        try:
            return parse(message)
        except DecodeError as error:
            raise InvalidRequestError(malformed(method)) from error

    return parsed


def _ending(responses: Callable[[], Iterator[object]], context: grpc.ServicerContext, method: str) -> Iterator[object]:
    try:
        yield from responses()
    except InvalidRequestError as error:
        context.abort(*status_of(error, method))
