"""Finds the handler of each call, checks the caller's token, parses requests, and turns errors into statuses.

Service methods take a parsed request, and raise domain errors. Without this module, grpcio would answer UNKNOWN to a
domain error, and INTERNAL to bytes that are not the method's message, although the caller is at fault.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1.health import SERVICE_NAME as HEALTH

from hangtag.protos.methods import MODEL_INFER
from hangtag.serving.server.errors import (
    InvalidRequestError,
    QueueFullError,
    ServerError,
    UnauthenticatedError,
    UnavailableError,
)
from hangtag.serving.server.wire.codec import parse_message
from hangtag.serving.server.wire.intake import Intake, Origin
from hangtag.serving.server.wire.status import call_status
from hangtag.serving.server.wire.transport_call import INFERENCE_METHODS

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Parse = Callable[[bytes], Any]
Answer = Callable[[Any, Context], Awaitable[Any]]

OPEN_PREFIX = f"/{HEALTH}/"
"""The methods of health need no token. Probes of orchestrators and load balancers cannot send a token, and health only
reveals whether a model serves."""


class Handlers(grpc.GenericRpcHandler):
    """The handlers of all methods, by name."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self.open = 0
        """Number of calls that are being answered."""
        self._watches = 0
        self._handlers: dict[str, Handler] = {}

    def service(self, details: grpc.HandlerCallDetails) -> Handler:
        """Return a call's handler, or None for an unknown method. grpcio calls this method before it receives a
        message."""
        if not self._intake.all_admitted and not details.method.startswith(OPEN_PREFIX):
            try:
                self._intake.admit(details.invocation_metadata, queries=details.method in INFERENCE_METHODS)
            except (UnauthenticatedError, UnavailableError) as error:
                self._intake.record_failure(Origin(""), error)
                # grpcio calls a handler for request streams before a message has arrived, so it can refuse any method
                return grpc.stream_unary_rpc_method_handler(partial(_refuse, error, details.method))
        return self._handlers.get(details.method)

    def add_service(self, descriptor: ServiceDescriptor, servicer: object, name: str = "") -> None:
        """Add the methods of a service. ``name`` is the service's full name, if it differs from the descriptor's name.

        ``servicer`` has a coroutine function for each served method, with the method's name. The function takes the
        request and the call's context, and returns the response. A stream of responses is written to the context. For a
        stream of requests, the function gets an asynchronous iterator of requests.
        """
        for method in descriptor.methods:
            path = f"/{name or descriptor.full_name}/{method.name}"
            parse: Parse = GetMessageClass(method.input_type).FromString
            serialize: Callable[[Any], bytes] | None = GetMessageClass(method.output_type).SerializeToString
            answer = getattr(servicer, method.name, None)
            if answer is None:  # a method of a newer protocol, such as health's List, is UNIMPLEMENTED
                continue
            if path == MODEL_INFER:  # this handler takes and returns bytes
                parse, serialize = bytes, None
            # Every handler takes a request stream, because grpcio calls such a handler even if a call ends without a
            # message. The handler can then report that the message is missing.
            add = grpc.stream_unary_rpc_method_handler
            if method.client_streaming or method.server_streaming:
                add = grpc.stream_stream_rpc_method_handler
            watches = method.server_streaming and not method.client_streaming
            handle = self._handle(path, parse, answer, reads_stream=method.client_streaming, watches=watches)
            self._handlers[path] = add(handle, response_serializer=serialize)

    def _handle(self, path: str, parse: Parse, answer: Answer, *, reads_stream: bool, watches: bool) -> Answer:
        max_watches = self._intake.engine.config.limits.max_watches

        async def requests(context: Context) -> AsyncIterator[Any]:
            while (message := await context.read()) is not grpc.aio.EOF:
                yield self._parse(path, parse, message, context)

        async def handle(_messages: object, context: Context) -> object:
            request = None
            self.open += 1
            self._watches += watches
            try:
                if watches and self._watches > max_watches:  # before the message, which may never arrive
                    full = QueueFullError(f"{max_watches} Watch streams are open; poll with Check instead")
                    await abort(full, path, None, context)
                if reads_stream:
                    # the answer has begun, so Envoy no longer awaits a whole request
                    await context.send_initial_metadata(())
                    return await answer(requests(context), context)
                request = self._parse(path, parse, await context.read(), context)
                return await answer(request, context)
            except Exception as error:
                await abort(error, path, request, context)
            finally:
                self.open -= 1
                self._watches -= watches

        return handle

    def _parse(self, path: str, parse: Parse, message: Any, context: Context) -> Any:
        try:
            return parse_message(parse, message, path)
        except InvalidRequestError as error:
            if path in INFERENCE_METHODS:
                self._intake.record_failure(origin_of(path, context), error)
            raise


async def abort(error: Exception, path: str, request: object, context: Context) -> NoReturn:
    """End a call with an error's status. A log entry contains the path and ``request``'s model and id."""
    if isinstance(error, grpc.aio.BaseError):  # the call has already ended, and grpcio handles this error
        raise error
    await context.abort(*call_status(error, path, request))


async def _refuse(error: ServerError, path: str, _requests: object, context: Context) -> None:
    await abort(error, path, None, context)


def origin_of(method: str, context: Context) -> Origin:
    """Return what telemetry, routes and queues need to know about a call."""
    remaining: float | None = context.time_remaining()
    deadline = None if remaining is None else time.monotonic() + remaining
    return Origin(method, tuple(context.invocation_metadata() or ()), deadline)
