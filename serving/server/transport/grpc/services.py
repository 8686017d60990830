"""inference.GRPCInferenceService, the Open Inference Protocol with Triton's extensions, and hangtag.v1.Classifier.

Each method translates its message, calls the engine or the model control, and translates the answer. Methods raise
domain errors, which `Handlers` turns into statuses.
"""

from collections.abc import AsyncIterator
from typing import TypeAlias

from hangtag.protos import classifier_pb2
from hangtag.protos import inference_pb2 as pb
from hangtag.protos.methods import CLASSIFY, CLASSIFY_STREAM, COMPARE, MODEL_INFER, MODEL_STREAM_INFER
from hangtag.serving.server.errors import (
    InvalidRequestError,
    NotFoundError,
    NotLoadedError,
    ServerError,
    UnavailableError,
)
from hangtag.serving.server.transport.grpc.handlers import Context, abort, origin_of
from hangtag.serving.server.transport.grpc.streams import OpenStreams, StreamCall
from hangtag.serving.server.wire.codec import MessagePlans, MessageQuery, serialized, submit_infer
from hangtag.serving.server.wire.event_loop import AwaitedCall, LoopCalls
from hangtag.serving.server.wire.image_query import classify_query, compare_queries
from hangtag.serving.server.wire.model_queries import model_config, model_metadata, server_metadata
from hangtag.serving.server.wire.status import call_status, cost_metadata, route_metadata

_FINAL = "triton_final_response"  # always true: every request has exactly one response here
_END_AT_ERROR = ("triton_grpc_error", "true")  # this metadata lets the first error end the stream
Response: TypeAlias = pb.ModelStreamInferResponse


class Services:
    """The methods of both services. The methods for the repository and the statistics answer for all the server's
    workers. Classifiers are the models that accept one UINT8 picture and have labels for the output
    ``probabilities``."""

    def __init__(self, calls: LoopCalls, streams: OpenStreams) -> None:
        self._intake = calls.intake
        self._engine = calls.intake.engine
        self._repository = calls.intake.repository
        self._calls = calls
        self._streams = streams
        self._plans = MessagePlans()

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._engine.ready)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        try:
            self._engine.model(request.name, request.version)
        except NotLoadedError:  # the first call loads the model
            pass
        except (NotFoundError, UnavailableError):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not self._engine.stopping)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        return server_metadata()

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        model = await self._intake.model(request.name, request.version)
        return model_metadata(model, self._engine.versions(model.name))

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        return pb.ModelConfigResponse(config=model_config(await self._intake.model(request.name, request.version)))

    async def ModelInfer(self, message: bytes, context: Context) -> bytes:
        """Answer ModelInfer. The request and the response are serialized messages."""
        call = AwaitedCall(self._calls, origin_of(MODEL_INFER, context))
        try:
            submit_infer(call, self._plans, message)
            await self._calls.wait([call])
            response = serialized(call.response())
        except Exception as error:
            await abort(error, MODEL_INFER, call, context)
        context.set_trailing_metadata(cost_metadata(call.timings))
        return response

    async def ModelStreamInfer(self, requests: AsyncIterator[pb.ModelInferRequest], context: Context) -> None:
        """Answer a stream. A failed request gets a response with its error. If the metadata sets ``triton_grpc_error``,
        the error ends the stream."""
        origin = origin_of(MODEL_STREAM_INFER, context)
        ends_at_error = _END_AT_ERROR in origin.metadata

        def respond(call: StreamCall) -> Response:
            try:
                response = call.response()
            except Exception as error:
                if ends_at_error:
                    raise
                asked = call.request
                code, message = call_status(error, MODEL_STREAM_INFER, asked)
                failed = pb.ModelInferResponse(
                    model_name=asked.model_name, model_version=asked.model_version, id=asked.id
                )
                failed.parameters[_FINAL].bool_param = True
                failed.parameters["status"].string_param = code.name
                return Response(error_message=message, infer_response=failed)
            response.parameters[_FINAL].bool_param = True
            timings = call.timings
            response.parameters["queue_ns"].int64_param = timings.queue_ns
            response.parameters["compute_ns"].int64_param = timings.compute_ns
            response.parameters["batch_size"].int64_param = timings.batch_size
            for key, value in route_metadata(timings):
                response.parameters[key.replace("-", "_")].string_param = value
            return Response(infer_response=response)

        await self._streams.answer(requests, context, origin, MessageQuery, respond)

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:
        _require_unnamed_repository(request.repository_name)
        return await self._repository.index(ready=request.ready)

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        _require_unnamed_repository(request.repository_name)
        await self._repository.load(request.model_name, request.parameters)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        _require_unnamed_repository(request.repository_name)
        await self._repository.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest, context: Context) -> pb.ModelStatisticsResponse:
        return await self._repository.statistics(request.name, request.version)

    async def Classify(
        self, request: classifier_pb2.ClassifyRequest, context: Context
    ) -> classifier_pb2.ClassifyResponse:
        (call,) = await self._calls.outcomes(origin_of(CLASSIFY, context), [classify_query(request)])
        response: classifier_pb2.ClassifyResponse = call.response()
        context.set_trailing_metadata(cost_metadata(call.timings))
        return response

    async def ClassifyStream(self, requests: AsyncIterator[classifier_pb2.ClassifyRequest], context: Context) -> None:
        def respond(call: StreamCall) -> classifier_pb2.ClassifyStreamResponse:
            identity = call.request.id
            try:
                return classifier_pb2.ClassifyStreamResponse(id=identity, answer=call.response())
            except Exception as error:
                failure = _failure(error, CLASSIFY_STREAM, call.request)
                return classifier_pb2.ClassifyStreamResponse(id=identity, failure=failure)

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


def _require_unnamed_repository(name: str) -> None:
    if name:
        raise InvalidRequestError(f"there is no repository {name!r}: this server's only repository has no name")


def _failure(error: Exception, rpc: str, request: object) -> classifier_pb2.Failure:
    code, message = call_status(error, rpc, request)
    number: int = code.value[0]
    return classifier_pb2.Failure(code=number, message=message)
