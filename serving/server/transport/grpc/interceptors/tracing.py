"""Trace the calls of inference methods that go through grpcio's handlers."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from hangtag.serving.server.transport.grpc.calls import INFERENCE_METHODS
from hangtag.serving.server.transport.tracing import Tracing


class TracingInterceptor(grpc.ServerInterceptor):
    """Records a span for each call of an inference method; a stream is one span."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method not in INFERENCE_METHODS:
            return handler
        parse, serialize = handler.request_deserializer, handler.response_serializer
        if (answer_each := handler.stream_stream) is not None:

            def traced_stream(requests: Iterator[object], context: Any) -> Iterator[object]:
                with self._recorded(method, context):
                    yield from answer_each(requests, context)

            return grpc.stream_stream_rpc_method_handler(
                traced_stream, request_deserializer=parse, response_serializer=serialize
            )
        answer = handler.unary_unary

        def traced(request: object, context: Any) -> object:
            with self._recorded(method, context):
                return answer(request, context)

        return grpc.unary_unary_rpc_method_handler(traced, request_deserializer=parse, response_serializer=serialize)

    @contextmanager
    def _recorded(self, method: str, context: Any) -> Iterator[None]:
        started = time.time_ns()
        try:
            yield
        finally:
            trailing = context.trailing_metadata() or ()
            self._tracing.record(method, context.invocation_metadata(), started, _code(context), trailing)


def _code(context: Any) -> str:
    """The status code's name. Without one the call went well, or its client left before the end."""
    code = context.code()
    if code is None:
        code = grpc.StatusCode.OK if context.is_active() else grpc.StatusCode.CANCELLED
    name: str = code.name
    return name
