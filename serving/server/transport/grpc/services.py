"""The handlers of gRPC's methods, and the methods that query models. `Handlers` checks the caller's token, parses
requests, and turns domain errors into statuses. Without the handlers, grpcio would answer UNKNOWN to a domain error,
and INTERNAL to bytes that are not the method's message."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1.health import SERVICE_NAME as HEALTH

from hangtag.protos import classifier_pb2
from hangtag.protos import inference_pb2 as pb
from hangtag.protos.methods import CLASSIFY, CLASSIFY_STREAM, COMPARE, MODEL_INFER, MODEL_STREAM_INFER
from hangtag.serving.server.errors import InvalidRequestError, QueueFullError, ServerError
from hangtag.serving.server.transport.grpc.streams import Context, OpenStreams, StreamCall
from hangtag.serving.server.wire.codec import MessageQuery, parse_message, serialized, submit_infer
from hangtag.serving.server.wire.event_loop import AwaitedCall, LoopCalls
from hangtag.serving.server.wire.image_query import classify_query, compare_queries
from hangtag.serving.server.wire.intake import Intake, Origin
from hangtag.serving.server.wire.plans import Plans
from hangtag.serving.server.wire.status import call_status, cost_metadata, route_metadata

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Parse = Callable[[bytes], Any]
Answer = Callable[[Any, Context], Awaitable[Any]]

INFERENCE_METHODS = frozenset({MODEL_INFER, MODEL_STREAM_INFER, CLASSIFY, CLASSIFY_STREAM, COMPARE})
"""The methods that query models, and are traced."""
_FINAL = "triton_final_response"  # always true: every request has exactly one response
_END_AT_ERROR = ("triton_grpc_error", "true")  # a stream with this metadata ends at the first error
OPEN_PREFIX = f"/{HEALTH}/"
"""The methods of health need no token, because probes of orchestrators and load balancers cannot send a token."""


class Handlers(grpc.GenericRpcHandler):
    """The handlers of all methods, by name."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.open = 0  # calls that are being answered
        self._watches = 0
        self._handlers: dict[str, Handler] = {}

    def service(self, details: grpc.HandlerCallDetails) -> Handler:
        """Return a call's handler, or None for an unknown method. gRPC calls this before the first message arrives."""
        if not self.intake.all_admitted and not details.method.startswith(OPEN_PREFIX):
            try:
                self.intake.admit(details.invocation_metadata, queries=details.method in INFERENCE_METHODS)
            except ServerError as error:
                self.intake.record_failure(Origin(""), error)
                # a handler for request streams can refuse any method, because grpcio calls it before a message arrives
                return grpc.stream_unary_rpc_method_handler(partial(_refuse, error, details.method))
        return self._handlers.get(details.method)

    def add_service(self, descriptor: ServiceDescriptor, servicer: object, name: str = "") -> None:
        """Add the methods of a service. ``name`` is the service's full name, if it differs from the descriptor's name.
        ``servicer`` has a coroutine function with the name of each served method. The function takes the request, or an
        asynchronous iterator of requests, and the call's context. It returns the response, or writes a stream of
        responses to the context."""
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
        async def requests(context: Context) -> AsyncIterator[Any]:
            while (message := await context.read()) is not grpc.aio.EOF:
                yield self._parse(path, parse, message, context)

        async def handle(_messages: object, context: Context) -> object:
            request = None
            self.open += 1
            self._watches += watches
            try:
                try:
                    self._require_few_watches(watches)  # before the message, which may never arrive
                    if reads_stream:
                        # once the answer has begun, Envoy no longer limits how long the request takes to arrive
                        await context.send_initial_metadata(())
                        return await answer(requests(context), context)
                    request = self._parse(path, parse, await context.read(), context)
                    return await answer(request, context)
                except grpc.aio.BaseError:  # the call has already ended, and grpcio handles this error
                    raise
                except _StatusError as error:
                    status = error.status
                except Exception as error:
                    status = call_status(error, path, request)
                # The exception that ``abort`` raises stays in memory, in a reference cycle with this frame and any
                # error being handled. So ``request`` is cleared before, and ``abort`` is called after ``except``.
                request = None
                return await context.abort(*status)
            finally:
                self.open -= 1
                self._watches -= watches

        return handle

    def _require_few_watches(self, watches: bool) -> None:
        limit = self.intake.engine.config.limits.max_watches
        if watches and self._watches > limit:
            raise QueueFullError(f"{limit} Watch streams are open; poll with Check instead")

    def _parse(self, path: str, parse: Parse, message: Any, context: Context) -> Any:
        try:
            return parse_message(parse, message, path)
        except InvalidRequestError as error:
            if path in INFERENCE_METHODS:
                self.intake.record_failure(origin_of(path, context), error)
            raise


async def _refuse(error: ServerError, path: str, _requests: object, context: Context) -> None:
    await context.abort(*call_status(error, path))


class _StatusError(Exception):
    """Ends a call with a status, after the error has been logged with the model's name and the request's id."""

    def __init__(self, status: tuple[grpc.StatusCode, str]) -> None:
        self.status = status


def origin_of(method: str, context: Context) -> Origin:
    remaining: float | None = context.time_remaining()
    deadline = None if remaining is None else time.monotonic() + remaining
    return Origin(method, tuple(context.invocation_metadata() or ()), deadline)


class Services:
    """The methods of inference.GRPCInferenceService and hangtag.v1.Classifier. Methods raise domain errors, which
    `Handlers` turns into statuses."""

    def __init__(self, calls: LoopCalls, streams: OpenStreams) -> None:
        self._calls = calls
        self._models = calls.intake.models
        self._streams = streams
        self._plans = Plans()

    def __getattr__(self, name: str) -> Answer:
        method = getattr(self._models, name)  # `ModelService` has all methods that do not query models
        return lambda request, _context: method(request)

    async def ModelInfer(self, message: bytes, context: Context) -> bytes:
        call = AwaitedCall(self._calls, origin_of(MODEL_INFER, context))
        try:
            submit_infer(call, self._plans, message)
            await self._calls.wait([call])
            response = serialized(call.response())
        except Exception as error:
            raise _StatusError(call_status(error, MODEL_INFER, call)) from error
        context.set_trailing_metadata(cost_metadata(call.timings))
        return response

    async def ModelStreamInfer(self, requests: AsyncIterator[pb.ModelInferRequest], context: Context) -> None:
        origin = origin_of(MODEL_STREAM_INFER, context)

        def respond(call: StreamCall) -> pb.ModelStreamInferResponse:
            try:
                response = call.response()
            except Exception as error:
                if _END_AT_ERROR in origin.metadata:
                    raise
                name, version, identity = call.model_name, call.model_version, call.request.id
                code, message = call_status(error, MODEL_STREAM_INFER, call.request)
                failed = pb.ModelInferResponse(model_name=name, model_version=version, id=identity)
                failed.parameters[_FINAL].bool_param = True
                failed.parameters["status"].string_param = code.name
                return pb.ModelStreamInferResponse(error_message=message, infer_response=failed)
            response.parameters[_FINAL].bool_param = True
            for key in ("queue_ns", "compute_ns", "batch_size"):
                response.parameters[key].int64_param = getattr(call.timings, key)
            for key, value in route_metadata(call.timings):
                response.parameters[key.replace("-", "_")].string_param = value
            return pb.ModelStreamInferResponse(infer_response=response)

        await self._streams.answer(requests, context, origin, MessageQuery, respond)

    async def Classify(self, request: classifier_pb2.ClassifyRequest, context: Context) -> Any:
        (call,) = await self._calls.outcomes(origin_of(CLASSIFY, context), [classify_query(request)])
        response = call.response()
        context.set_trailing_metadata(cost_metadata(call.timings))
        return response

    async def ClassifyStream(self, requests: AsyncIterator[classifier_pb2.ClassifyRequest], context: Context) -> None:
        def respond(call: StreamCall) -> classifier_pb2.ClassifyStreamResponse:
            response = classifier_pb2.ClassifyStreamResponse(id=call.request.id)
            try:
                response.answer.CopyFrom(call.response())
            except Exception as error:
                response.failure.CopyFrom(_failure(error, CLASSIFY_STREAM, call.request))
            return response

        origin = origin_of(CLASSIFY_STREAM, context)
        await self._streams.answer(requests, context, origin, classify_query, respond, in_thread=True)

    async def Compare(self, request: classifier_pb2.CompareRequest, context: Context) -> classifier_pb2.CompareResponse:
        origin, intake = origin_of(COMPARE, context), self._calls.intake
        try:
            queries = compare_queries(request, intake.engine)
        except ServerError as error:
            intake.record_failure(origin, error)
            raise
        calls = await self._calls.outcomes(origin, queries)
        outcomes = []
        for query, call in zip(queries, calls, strict=True):
            outcome = classifier_pb2.ModelOutcome(model_name=query.model_name)
            try:
                outcome.answer.CopyFrom(call.response())
            except Exception as error:
                outcome.failure.CopyFrom(_failure(error, COMPARE, query))
            outcomes.append(outcome)
        return classifier_pb2.CompareResponse(outcomes=outcomes)


def _failure(error: Exception, rpc: str, request: object) -> classifier_pb2.Failure:
    code, message = call_status(error, rpc, request)
    number: int = code.value[0]
    return classifier_pb2.Failure(code=number, message=message)
