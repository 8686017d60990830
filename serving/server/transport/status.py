"""Domain errors -> gRPC status codes: one table, and the wrapper that applies it to a servicer's methods."""

import functools
import uuid
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError

from serving.server.errors import (
    CancelledError,
    DeadlineError,
    InferenceError,
    InvalidRequestError,
    NotFoundError,
    QueueFullError,
    ServerError,
    UnavailableError,
)

log = structlog.get_logger()

STATUS: dict[type[ServerError], grpc.StatusCode] = {
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    QueueFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    CancelledError: grpc.StatusCode.CANCELLED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    InferenceError: grpc.StatusCode.INTERNAL,
}

Servicer = TypeVar("Servicer")
Request = TypeVar("Request")
Response = TypeVar("Response")
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"


def status_of(error: Exception, rpc: str) -> tuple[grpc.StatusCode, str]:
    """The status and the message that a call ends with; for a bug of ours, a reference to the log that has the rest."""
    if isinstance(error, ServerError):
        return STATUS[type(error)], _short(str(error))
    reference = uuid.uuid4().hex[:12]
    log.error("unexpected error", rpc=rpc, reference=reference, exc_info=error)
    return grpc.StatusCode.INTERNAL, f"an error inside the server; its log has it under {reference}"


def malformed(method: str) -> str:
    """What to tell who sent bytes that are no message of this method."""
    return f"the bytes are not a message that {method} takes; generate the caller's stubs from protos/*.proto"


def answers_errors(
    method: Callable[[Servicer, Request, grpc.ServicerContext], Response],
) -> Callable[[Servicer, Request, grpc.ServicerContext], Response]:
    """Let a servicer's method raise domain errors: each ends the call with its status and its own message."""

    @functools.wraps(method)
    def answering(servicer: Servicer, request: Request, context: grpc.ServicerContext) -> Response:
        try:
            return method(servicer, request, context)
        except Exception as error:
            context.abort(*status_of(error, method.__name__))

    return answering


class RefusesMalformedMessages(grpc.ServerInterceptor):
    """Bytes that are not the method's message are the caller's error; grpcio would call them INTERNAL."""

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = continuation(handler_call_details)
        if handler is None or handler.unary_unary is None or handler.request_deserializer is None:
            return handler
        answer, parse, method = handler.unary_unary, handler.request_deserializer, handler_call_details.method

        def parse_and_answer(data: bytes, context: grpc.ServicerContext) -> object:
            try:
                request = parse(data)
            except DecodeError:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, malformed(method))
            return answer(request, context)

        return grpc.unary_unary_rpc_method_handler(parse_and_answer, response_serializer=handler.response_serializer)


def _short(message: str) -> str:
    """Messages quote what the caller sent, but travel in a header of 8 KiB where one character may take 12 bytes."""
    limit = 2500 if message.isascii() else 600
    return message if len(message) <= limit else f"{message[:limit]} ..."
