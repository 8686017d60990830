"""hangtag.v1.Classifier: an image in, labels with probabilities out.

One model classifies one image or a stream of images, or several models classify the same image for comparison.
"""

from collections.abc import AsyncIterator

from hangtag.protos import classifier_pb2 as pb
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.transport.grpc.calls import Context, call_deadline, describe_call, set_cost
from hangtag.serving.server.transport.grpc.streams.open_streams import OpenStreams
from hangtag.serving.server.transport.methods import CLASSIFY, CLASSIFY_STREAM, COMPARE
from hangtag.serving.server.transport.queries.comparison import compare_queries
from hangtag.serving.server.transport.queries.image_query import ImageQuery, classify_query
from hangtag.serving.server.transport.queries.loop_calls import LoopCall, LoopCalls
from hangtag.serving.server.transport.status import call_status
from hangtag.serving.server.transport.tracing import Tracing


class ClassifierService:
    """Works with every model that takes one UINT8 picture and has labels for its output ``probabilities``."""

    def __init__(self, engine: Engine, calls: LoopCalls, streams: OpenStreams, tracing: Tracing | None = None) -> None:
        self._engine = engine
        self._calls = calls
        self._streams = streams
        self._tracing = tracing

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        origin = describe_call(CLASSIFY, context, self._tracing)
        deadline = call_deadline(context)
        response, timings = await self._calls.answer(classify_query(request), origin, deadline, in_thread=True)
        set_cost(context, timings)
        assert isinstance(response, pb.ClassifyResponse)
        return response

    async def ClassifyStream(self, requests: AsyncIterator[pb.ClassifyRequest], context: Context) -> None:
        def respond(request: pb.ClassifyRequest, call: LoopCall) -> pb.ClassifyStreamResponse:
            try:
                return pb.ClassifyStreamResponse(id=request.id, answer=call.response())
            except Exception as error:
                failure = _failure(error, CLASSIFY_STREAM, request)
                return pb.ClassifyStreamResponse(id=request.id, failure=failure)

        origin = describe_call(CLASSIFY_STREAM, context, self._tracing)
        await self._streams.answer(requests, context, origin, classify_query, respond, in_thread=True)

    async def Compare(self, request: pb.CompareRequest, context: Context) -> pb.CompareResponse:
        origin = describe_call(COMPARE, context, self._tracing)
        queries = compare_queries(request, self._engine, origin)
        calls = await self._calls.outcomes(queries, origin, call_deadline(context))
        return pb.CompareResponse(outcomes=[_model_outcome(*each) for each in zip(queries, calls, strict=True)])


def _model_outcome(query: ImageQuery, call: LoopCall) -> pb.ModelOutcome:
    try:
        return pb.ModelOutcome(model_name=query.model_name, answer=call.response())
    except Exception as error:
        return pb.ModelOutcome(model_name=query.model_name, failure=_failure(error, COMPARE, query))


def _failure(error: Exception, rpc: str, request: object) -> pb.Failure:
    code, message = call_status(error, rpc, request)
    number: int = code.value[0]
    return pb.Failure(code=number, message=message)
