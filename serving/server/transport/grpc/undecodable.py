"""Bytes that are not the method's message are the caller's error; grpcio would call them INTERNAL."""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from hangtag.serving.server.errors import InvalidRequestError
from hangtag.serving.server.transport.status import call_status

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Parse = Callable[[bytes], Any]


def refusing_malformed(parse: Parse, method: str) -> Parse:
    """Parses as ``parse`` does, and raises InvalidRequestError for bytes that are no message of this method."""

    def parsed(message: bytes) -> Any:
        try:
            return parse(message)
        except DecodeError as error:
            raise InvalidRequestError(
                f"the bytes are not a message that {method} takes; generate the caller's stubs from protos/*.proto"
            ) from error

    return parsed


class RefusesMalformedMessages(grpc.ServerInterceptor):
    """Ends a call with INVALID_ARGUMENT where such bytes come: a single call before its method, a stream there."""

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler
        method, serializer = handler_call_details.method, handler.response_serializer
        parse = refusing_malformed(handler.request_deserializer, method)
        if (answer := handler.unary_unary) is not None:

            def parse_and_answer(message: bytes, context: grpc.ServicerContext) -> object:
                try:
                    request = parse(message)
                except InvalidRequestError as error:
                    context.abort(*call_status(error, method))
                return answer(request, context)

            return grpc.unary_unary_rpc_method_handler(parse_and_answer, response_serializer=serializer)
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


def _ending(responses: Callable[[], Iterator[object]], context: grpc.ServicerContext, method: str) -> Iterator[object]:
    try:
        yield from responses()
    except InvalidRequestError as error:
        context.abort(*call_status(error, method))
