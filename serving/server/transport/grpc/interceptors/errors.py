"""Parse each request and turn an error of its service method into the call's status.

grpcio would answer INTERNAL for bytes that are not the method's message, which is the caller's error, and UNKNOWN for a
domain error. With this interceptor service methods simply raise.
"""

from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeAlias

import grpc

from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.transport.codec import parse_message
from hangtag.serving.server.transport.grpc.calls import describe_call
from hangtag.serving.server.transport.methods import INFERENCE_METHODS
from hangtag.serving.server.transport.status import call_status, request_log_fields
from hangtag.serving.server.transport.submission import failures_recorded
from hangtag.serving.server.transport.tracing import Tracing

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Parse = Callable[[bytes], Any]


class ErrorInterceptor(grpc.ServerInterceptor):
    """Ends a call whose request cannot be parsed, or whose method raises, with the error's status and message."""

    def __init__(self, engine: Engine, tracing: Tracing | None = None) -> None:
        """engine and tracing count and trace the undecodable requests of inference methods; their other failures are
        recorded where they are submitted."""
        self._engine = engine
        self._tracing = tracing
        self._handlers: dict[str, Handler] = {}  # grpcio asks for a handler at every call: each method's is made once

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        method = handler_call_details.method
        if method not in self._handlers:
            handler = continuation(handler_call_details)
            if handler is None:  # an unknown method, of which there is no end
                return None
            self._handlers[method] = self._wrapped(handler, method)
        return self._handlers[method]

    def _wrapped(self, handler: Handler, method: str) -> Handler:
        if handler is None or handler.request_deserializer is None:
            return handler
        parse, serialize = handler.request_deserializer, handler.response_serializer
        if (unary_unary := handler.unary_unary) is not None:

            def answer(message: bytes, context: grpc.ServicerContext) -> object:
                request = None
                try:
                    request = self._parse(parse, message, method, context)
                    return unary_unary(request, context)
                except Exception as error:
                    _abort(error, method, request, context)

            return grpc.unary_unary_rpc_method_handler(answer, response_serializer=serialize)
        if (stream_stream := handler.stream_stream) is not None:

            def answer_stream(messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[object]:
                try:
                    requests = (self._parse(parse, message, method, context) for message in messages)
                    yield from stream_stream(requests, context)
                except Exception as error:
                    _abort(error, method, None, context)

            return grpc.stream_stream_rpc_method_handler(answer_stream, response_serializer=serialize)
        if (unary_stream := handler.unary_stream) is not None:

            def answer_with_stream(message: bytes, context: grpc.ServicerContext) -> Iterator[object]:
                try:
                    yield from unary_stream(self._parse(parse, message, method, context), context)
                except Exception as error:
                    _abort(error, method, None, context)

            return grpc.unary_stream_rpc_method_handler(answer_with_stream, response_serializer=serialize)
        return handler

    def _parse(self, parse: Parse, message: bytes, method: str, context: grpc.ServicerContext) -> Any:
        if method not in INFERENCE_METHODS:
            return parse_message(parse, message, method)
        with failures_recorded(self._engine, describe_call(method, context, self._tracing)):
            return parse_message(parse, message, method)


def _abort(error: Exception, method: str, request: object, context: grpc.ServicerContext) -> NoReturn:
    if isinstance(error, grpc.RpcError):  # grpcio raises it where a call has ended while its requests were read
        raise error
    log_fields = request_log_fields(request, context.invocation_metadata())
    context.abort(*call_status(error, method.rpartition("/")[2], log_fields))
