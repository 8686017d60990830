"""hangtag.v1.Classifier: an image in, labels with probabilities out; of one model, of a stream of images, or of several
models side by side."""

from collections.abc import Iterator, Mapping

import grpc

from hangtag.protos import classifier_pb2 as pb
from hangtag.protos import classifier_pb2_grpc
from hangtag.serving.server.batching.request import OnComplete
from hangtag.serving.server.classification.classifier import Classifier
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import InvalidRequestError, NotFoundError, UnavailableError
from hangtag.serving.server.transport.deadline import deadline_of
from hangtag.serving.server.transport.grpc.streams.errors import ends_with_errors
from hangtag.serving.server.transport.grpc.streams.ordered import Streams
from hangtag.serving.server.transport.grpc.unary_call import infer
from hangtag.serving.server.transport.image_request import ImageRequest, Picture
from hangtag.serving.server.transport.lookup import with_model
from hangtag.serving.server.transport.status import answers_errors, call_status, counts_failures, request_log_fields
from hangtag.serving.server.transport.submission import Ask, Asked, ask_all, asking

MAX_COMPARED = 32
"""Models asked about one image at once."""


class ClassifierService(classifier_pb2_grpc.ClassifierServicer):
    """Works with every model that takes one UINT8 picture and carries labels for its ``probabilities``."""

    def __init__(self, engine: Engine, streams: Streams) -> None:
        self._engine = engine
        self._streams = streams

    @answers_errors
    @counts_failures
    def Classify(self, request: pb.ClassifyRequest, context: grpc.ServicerContext) -> pb.ClassifyResponse:
        picture = Picture(request)

        def ask(model: ServedModel) -> pb.ClassifyResponse:
            about = ImageRequest(model, picture, request.top_k)
            return about.read(infer(model, about.inputs, about.datatypes, context, deadline_of(context)))

        return with_model(self._engine, request.model_name, request.model_version, ask)

    @ends_with_errors
    def ClassifyStream(
        self, request_iterator: Iterator[pb.ClassifyRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ClassifyStreamResponse]:
        def refuse(request: pb.ClassifyRequest, error: Exception) -> pb.ClassifyStreamResponse:
            identity = request_log_fields(request, context.invocation_metadata())
            return pb.ClassifyStreamResponse(id=request.id, failure=_failure(error, "ClassifyStream", identity))

        return self._streams.answer(request_iterator, context, self._ask, refuse)

    @answers_errors
    @counts_failures
    def Compare(self, request: pb.CompareRequest, context: grpc.ServicerContext) -> pb.CompareResponse:
        choices = self._choices(request)
        picture = Picture(request)
        asks = [self._asking(choice.name, choice.version, picture, request.top_k) for choice in choices]
        responses = ask_all(asks, context)
        identity = request_log_fields(request, context.invocation_metadata())

        def outcome(model: str, response: pb.ClassifyResponse | Exception) -> pb.ModelOutcome:
            if isinstance(response, Exception):
                failure = _failure(response, "Compare", {**identity, "model": model})
                return pb.ModelOutcome(model_name=model, failure=failure)
            return pb.ModelOutcome(model_name=model, answer=response)

        names = [choice.name for choice in choices]
        return pb.CompareResponse(outcomes=[outcome(*each) for each in zip(names, responses, strict=True)])

    def _asking(self, name: str, version: str, picture: Picture, top_k: int) -> Ask[pb.ClassifyResponse]:
        def ask(model: ServedModel, on_complete: OnComplete, deadline: float | None) -> Asked[pb.ClassifyResponse]:
            return ImageRequest(model, picture, top_k).ask(on_complete, deadline)

        return asking(self._engine, name, version, ask)

    def _ask(
        self, request: pb.ClassifyRequest, on_complete: OnComplete, deadline: float | None
    ) -> Asked[pb.ClassifyStreamResponse]:
        ask = self._asking(request.model_name, request.model_version, Picture(request), request.top_k)
        asked = ask(on_complete, deadline)
        return Asked(asked.cancel, lambda answer: pb.ClassifyStreamResponse(id=request.id, answer=asked.read(answer)))

    def _choices(self, request: pb.CompareRequest) -> list[pb.ModelChoice]:
        """Those of the request, or every classifier that is served. Raises ServerError."""
        choices = list(request.models) or self._every_classifier()
        if len(choices) > MAX_COMPARED:
            raise InvalidRequestError(f"{len(choices)} models; at most {MAX_COMPARED} are asked about one image")
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


def _failure(error: Exception, rpc: str, identity: Mapping[str, str]) -> pb.Failure:
    code, message = call_status(error, rpc, identity)
    number: int = code.value[0]
    return pb.Failure(code=number, message=message)
