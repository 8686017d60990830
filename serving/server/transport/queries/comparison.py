"""One image for several models: a query for each of them."""

from collections.abc import Sequence

from hangtag.protos import classifier_pb2 as pb
from hangtag.serving.server.classification.classifier import Classifier
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.errors import InvalidRequestError, NotFoundError, UnavailableError
from hangtag.serving.server.transport.call import Origin, failures_recorded
from hangtag.serving.server.transport.queries.image_query import ImageQuery, RequestImage

MAX_COMPARED = 32
"""Models that one comparison may name."""


def compare_queries(request: pb.CompareRequest, engine: Engine, origin: Origin) -> list[ImageQuery]:
    """Return the query of each model that a comparison names, or of every classifier that is served.

    Raises:
        InvalidRequestError: Too many models are named, or one is named twice.
        NotFoundError: None is named, and no served model classifies pictures.
        UnavailableError: None is named, and the models are being loaded.
    """
    with failures_recorded(engine, origin):
        choices = _choices(request, engine)
    image = RequestImage(request)
    return [ImageQuery(choice.name, choice.version, image, request.top_k) for choice in choices]


def _choices(request: pb.CompareRequest, engine: Engine) -> Sequence[pb.ModelChoice]:
    choices: Sequence[pb.ModelChoice] = request.models or _every_classifier(engine)
    if len(choices) > MAX_COMPARED:
        raise InvalidRequestError(f"{len(choices)} models; at most {MAX_COMPARED} can be compared on one image")
    seen: set[tuple[str, str]] = set()
    for choice in choices:
        if (choice.name, choice.version) in seen:
            raise InvalidRequestError(f"model {choice.name!r} is given twice; name each one once")
        seen.add((choice.name, choice.version))
    return choices


def _every_classifier(engine: Engine) -> list[pb.ModelChoice]:
    if not engine.ready:
        raise UnavailableError("the server is loading its models, or stopping; name the models, or try again later")
    names = {model.name for model in engine.models if Classifier.fits(model.signature)}
    if not names:
        raise NotFoundError("no served model classifies pictures; call them for inference instead")
    return [pb.ModelChoice(name=name) for name in sorted(names)]
