"""hangtag.v1.Classifier: an image in, labels with probabilities out.

One model classifies one image or a stream of images, or several models classify the same image for comparison.
"""

from collections.abc import AsyncIterator

from hangtag.protos import classifier_pb2 as pb
from hangtag.serving.server.classification.classifier import Classifier
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.errors import InvalidRequestError, NotFoundError, UnavailableError
from hangtag.serving.server.transport.grpc.calls import Context, Queries, describe_call, invocation_metadata
from hangtag.serving.server.transport.grpc.streams.open_streams import OpenStreams
from hangtag.serving.server.transport.methods import CLASSIFY, CLASSIFY_STREAM, COMPARE
from hangtag.serving.server.transport.queries.image_query import ImageQuery, RequestImage, classify_query
from hangtag.serving.server.transport.status import call_status
from hangtag.serving.server.transport.submission import Outcome, failures_recorded
from hangtag.serving.server.transport.tracing import Tracing

MAX_COMPARED = 32
"""Models that one Compare may name."""


class ClassifierService:
    """Works with every model that takes one UINT8 picture and has labels for its output ``probabilities``."""

    def __init__(self, engine: Engine, queries: Queries, streams: OpenStreams, tracing: Tracing | None = None) -> None:
        self._engine = engine
        self._queries = queries
        self._streams = streams
        self._tracing = tracing

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        query = classify_query(request, describe_call(CLASSIFY, context, self._tracing))
        return await self._queries.answer(query, context, in_thread=True)

    async def ClassifyStream(self, requests: AsyncIterator[pb.ClassifyRequest], context: Context) -> None:
        def respond(request: pb.ClassifyRequest, outcome: Outcome[pb.ClassifyResponse]) -> pb.ClassifyStreamResponse:
            try:
                return pb.ClassifyStreamResponse(id=request.id, answer=outcome.response())
            except Exception as error:
                failure = _failure(error, CLASSIFY_STREAM, request, context)
                return pb.ClassifyStreamResponse(id=request.id, failure=failure)

        call = describe_call(CLASSIFY_STREAM, context, self._tracing)
        await self._streams.answer(
            requests, context, lambda request: classify_query(request, call), respond, in_thread=True
        )

    async def Compare(self, request: pb.CompareRequest, context: Context) -> pb.CompareResponse:
        call = describe_call(COMPARE, context, self._tracing)
        with failures_recorded(self._engine, call):
            choices = self._choices(request)
        image = RequestImage(request)
        queries = [ImageQuery(choice.name, choice.version, image, request.top_k, call) for choice in choices]
        outcomes = await self._queries.outcomes(queries, context)
        return pb.CompareResponse(
            outcomes=[_model_outcome(*each, context) for each in zip(queries, outcomes, strict=True)]
        )

    def _choices(self, request: pb.CompareRequest) -> list[pb.ModelChoice]:
        """The models of the request, or every classifier that is served. Raises ServerError."""
        choices = list(request.models) or self._every_classifier()
        if len(choices) > MAX_COMPARED:
            raise InvalidRequestError(f"{len(choices)} models; at most {MAX_COMPARED} can be compared on one image")
        seen: set[tuple[str, str]] = set()
        for choice in choices:
            if (choice.name, choice.version) in seen:
                raise InvalidRequestError(f"model {choice.name!r} is given twice; name each one once")
            seen.add((choice.name, choice.version))
        return choices

    def _every_classifier(self) -> list[pb.ModelChoice]:
        if not self._engine.ready:
            raise UnavailableError("the server is loading its models, or stopping; name the models, or try again later")
        names = {model.name for model in self._engine.models if Classifier.fits(model.signature)}
        if not names:
            raise NotFoundError("no served model classifies pictures; call them with ModelInfer")
        return [pb.ModelChoice(name=name) for name in sorted(names)]


def _model_outcome(query: ImageQuery, outcome: Outcome[pb.ClassifyResponse], context: Context) -> pb.ModelOutcome:
    try:
        return pb.ModelOutcome(model_name=query.model_name, answer=outcome.response())
    except Exception as error:
        return pb.ModelOutcome(model_name=query.model_name, failure=_failure(error, COMPARE, query, context))


def _failure(error: Exception, rpc: str, request: object, context: Context) -> pb.Failure:
    code, message = call_status(error, rpc, request, invocation_metadata(context))
    number: int = code.value[0]
    return pb.Failure(code=number, message=message)
