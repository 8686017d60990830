"""hangtag.v1.Classifier: an image in, labels with probabilities out; of one model, of a stream of images, or of several
models side by side."""

from collections.abc import Iterator

import grpc

from protos import classifier_pb2 as pb
from protos import classifier_pb2_grpc
from serving.server.batcher import OnDone
from serving.server.classification import Classifier
from serving.server.engine import Engine
from serving.server.errors import InvalidRequestError, NotFoundError, UnavailableError
from serving.server.transport.asking import Ask, Asked, ask_all
from serving.server.transport.call import infer
from serving.server.transport.image_request import ImageRequest, Picture
from serving.server.transport.status import answers_errors, status_of
from serving.server.transport.stream_errors import ends_with_errors
from serving.server.transport.streams import Streams

MAX_COMPARED = 32
"""Models asked about one image at once."""


class ClassifierService(classifier_pb2_grpc.ClassifierServicer):
    """Works with every model that takes one UINT8 picture and carries labels for its ``probabilities``."""

    def __init__(self, engine: Engine, streams: Streams) -> None:
        self._engine = engine
        self._streams = streams

    @answers_errors
    def Classify(self, request: pb.ClassifyRequest, context: grpc.ServicerContext) -> pb.ClassifyResponse:
        about = self._about(request)
        return about.read(infer(about.model, about.inputs, about.datatypes, context))

    @ends_with_errors
    def ClassifyStream(
        self, request_iterator: Iterator[pb.ClassifyRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ClassifyStreamResponse]:
        return self._streams.answer(request_iterator, context, self._ask, _refuse)

    @answers_errors
    def Compare(self, request: pb.CompareRequest, context: grpc.ServicerContext) -> pb.CompareResponse:
        choices = self._choices(request)
        picture = Picture(request)

        def asking(choice: pb.ModelChoice) -> Ask[pb.ClassifyResponse]:
            def ask(on_done: OnDone, deadline: float | None) -> Asked[pb.ClassifyResponse]:
                model = self._engine.model(choice.name, choice.version)
                return ImageRequest(model, picture, request.top_k).ask(on_done, deadline)

            return ask

        responses = ask_all([asking(choice) for choice in choices], context)
        return pb.CompareResponse(
            outcomes=[
                pb.ModelOutcome(model_name=choice.name, failure=_failure(response, "Compare"))
                if isinstance(response, Exception)
                else pb.ModelOutcome(model_name=choice.name, answer=response)
                for choice, response in zip(choices, responses, strict=True)
            ]
        )

    def _about(self, request: pb.ClassifyRequest) -> ImageRequest:
        model = self._engine.model(request.model_name, request.model_version)
        return ImageRequest(model, Picture(request), request.top_k)

    def _ask(
        self, request: pb.ClassifyRequest, on_done: OnDone, deadline: float | None
    ) -> Asked[pb.ClassifyStreamResponse]:
        asked = self._about(request).ask(on_done, deadline)
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


def _refuse(request: pb.ClassifyRequest, error: Exception) -> pb.ClassifyStreamResponse:
    return pb.ClassifyStreamResponse(id=request.id, failure=_failure(error, "ClassifyStream"))


def _failure(error: Exception, rpc: str) -> pb.Failure:
    code, message = status_of(error, rpc)
    number: int = code.value[0]
    return pb.Failure(code=number, message=message)
