"""Finds the handler of each call, checks the caller's token, parses requests, and turns errors into statuses.

Service methods take a parsed request, and raise domain errors. grpcio would answer INTERNAL for bytes that are not the
method's message, which is the caller's error, and UNKNOWN for a domain error.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1.health import SERVICE_NAME as HEALTH

from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.errors import STOPPING, ServerError, UnauthenticatedError, UnavailableError
from hangtag.serving.server.transport.call import CallOrigin, failures_recorded, record_failure
from hangtag.serving.server.transport.codec import parse_message
from hangtag.serving.server.transport.grpc.awaited_messages import AwaitedMessages
from hangtag.serving.server.transport.grpc.calls import Context, describe_call
from hangtag.serving.server.transport.methods import INFERENCE_METHODS
from hangtag.serving.server.transport.security.tokens import Authorise
from hangtag.serving.server.transport.status import call_status
from hangtag.serving.server.transport.tracing import Metadata, Tracing

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Parse = Callable[[bytes], Any]
Answer = Callable[[Any, Context], Awaitable[Any]]

OPEN_PREFIX = f"/{HEALTH}/"
"""Methods that need no token: probes of orchestrators and load balancers cannot send one, and health reveals no more
than whether a model serves."""


class Handlers(grpc.GenericRpcHandler):
    """The handlers of all methods, by name."""

    def __init__(self, engine: Engine, authorise: Authorise | None, tracing: Tracing | None) -> None:
        """Handle no method yet.

        Args:
            engine: Counts refused callers, and undecodable requests of inference methods.
            authorise: Checks every call but those to health; None lets everybody call.
            tracing: Gets a span for each undecodable request of an inference method; None records none.
        """
        self._engine = engine
        self._authorise = authorise
        self._tracing = tracing
        self._handlers: dict[str, Handler] = {}
        self._messages = AwaitedMessages(
            engine.config.limits.message_seconds, engine.config.limits.max_awaited_messages
        )
        self._stopping = False

    def refuse_new(self) -> None:
        """Answer every further call, but those to health, with UNAVAILABLE."""
        self._stopping = True

    def service(self, details: grpc.HandlerCallDetails) -> Handler:
        """Return the handler of a call; None if there is no such method. grpcio asks before it receives a message."""
        if (self._authorise is not None or self._stopping) and not details.method.startswith(OPEN_PREFIX):
            try:
                with failures_recorded(self._engine, CallOrigin("")):
                    self._admit(details.invocation_metadata)
            except (UnauthenticatedError, UnavailableError) as error:
                return _refusal(error, details.method)
        return self._handlers.get(details.method)

    def _admit(self, metadata: Metadata) -> None:
        if self._authorise is not None:
            self._authorise(metadata)
        if self._stopping:
            raise UnavailableError(STOPPING)

    def add_service(self, descriptor: ServiceDescriptor, servicer: object, name: str = "") -> None:
        """Add the methods of a service.

        Args:
            descriptor: Lists the methods.
            servicer: Has a coroutine function of the same name for each that is served. It takes the request and the
                call's context, and returns the response. Where responses are a stream, it writes them to the context;
                where requests are a stream, it gets an asynchronous iterator of them.
            name: The service's full name, where it is not the descriptor's.
        """
        for method in descriptor.methods:
            path = f"/{name or descriptor.full_name}/{method.name}"
            parse = GetMessageClass(method.input_type).FromString
            serialize = GetMessageClass(method.output_type).SerializeToString
            answer = getattr(servicer, method.name, None)
            if answer is None:  # a method of a newer protocol, such as health's List: UNIMPLEMENTED
                continue
            if method.client_streaming:
                self.add_streaming(path, parse, serialize, answer)
                continue
            # grpcio calls the handler of a request stream before it receives a message, so it can be waited for here.
            handler = self._parsing(path, parse, answer)
            if method.server_streaming:
                self._handlers[path] = grpc.stream_stream_rpc_method_handler(handler, response_serializer=serialize)
            else:
                self._handlers[path] = grpc.stream_unary_rpc_method_handler(handler, response_serializer=serialize)

    def add_streaming(self, path: str, parse: Parse, serialize: Callable[[Any], bytes], answer: Answer) -> None:
        """Add a method whose requests and responses are streams."""

        async def handle(_messages: object, context: Context) -> None:
            try:
                await answer(self._requests(path, parse, context), context)
            except Exception as error:
                await abort(error, path, None, context)

        self._handlers[path] = grpc.stream_stream_rpc_method_handler(handle, response_serializer=serialize)

    def add_bytes(self, path: str, answer: Callable[[bytes, Context], Awaitable[bytes]]) -> None:
        """Add a method that takes its request and returns its response as bytes, and ends the call of an error."""

        async def handle(_messages: object, context: Context) -> bytes:
            return await answer(await self._message(path, context), context)

        self._handlers[path] = grpc.stream_unary_rpc_method_handler(handle)

    def _parsing(self, path: str, parse: Parse, answer: Answer) -> Answer:
        async def handle(_messages: object, context: Context) -> object:
            message = await self._message(path, context)
            request = None
            try:
                request = self._parse(path, parse, message, context)
                return await answer(request, context)
            except Exception as error:
                await abort(error, path, request, context)

        return handle

    async def _message(self, path: str, context: Context) -> bytes:
        """Return the message of a call that has one; a call without one is aborted."""
        started = time.perf_counter_ns()
        try:
            return await self._messages.read(context)
        except ServerError as error:
            if path in INFERENCE_METHODS:
                record_failure(self._engine, describe_call(path, context, self._tracing), error, started)
            await abort(error, path, None, context)

    async def _requests(self, path: str, parse: Parse, context: Context) -> AsyncIterator[Any]:
        while (message := await context.read()) is not grpc.aio.EOF:
            yield self._parse(path, parse, message, context)

    def _parse(self, path: str, parse: Parse, message: bytes, context: Context) -> Any:
        if path not in INFERENCE_METHODS:
            return parse_message(parse, message, path)
        with failures_recorded(self._engine, describe_call(path, context, self._tracing)):
            return parse_message(parse, message, path)


async def abort(error: Exception, path: str, request: object, context: Context) -> NoReturn:
    """End a call with the status of an error.

    Args:
        error: What a service method raised.
        path: /package.Service/Method.
        request: The parsed request, for the log; None if there is none.
        context: The call.
    """
    if isinstance(error, grpc.aio.BaseError):  # the call has ended already, and grpcio knows
        raise error
    await context.abort(*call_status(error, path, request))


def _refusal(error: ServerError, path: str) -> Handler:
    async def refuse(_requests: object, context: Context) -> None:
        await abort(error, path, None, context)

    # For a method of any kind: grpcio calls the handler of a request stream before it receives a message.
    return grpc.stream_unary_rpc_method_handler(refuse)
