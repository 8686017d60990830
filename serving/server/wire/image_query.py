"""Turns a classification into queries: an image for one model, or for several models that are compared."""

import math
import time
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from hangtag.protos import classifier_pb2 as pb
from hangtag.serving.image_spec import ImageSpec, Pixels
from hangtag.serving.server.classification.classifier import Classifier
from hangtag.serving.server.classification.image_decoding import EncodedImage
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import InvalidRequestError, NotFoundError, UnavailableError
from hangtag.serving.server.queue.call import InferenceResult
from hangtag.serving.server.wire.transport_call import Query, TransportCall

Request: TypeAlias = pb.ClassifyRequest | pb.CompareRequest
MAX_COMPARED = 32
"""The most models that one comparison may name."""


class RequestImage:
    """The image of a request, which is prepared once for all models that accept the same kind of pictures."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._encoded = EncodedImage(request.encoded)
        self._pixels: dict[tuple[ImageSpec | None, tuple[int, ...], bool], Pixels] = {}

    @property
    def is_large(self) -> bool:
        """Whether preparing the image may take long, and may wait for memory that other large images use."""
        return self._request.WhichOneof("image") == "encoded" and self._encoded.is_large

    def pixels(self, classifier: Classifier) -> Pixels:
        """Return UINT8 pixels in the classifier's shape. Raises InvalidRequestError if the image cannot be used."""
        form = (classifier.signature.image, classifier.shape, classifier.is_multi_label)
        if form not in self._pixels:
            self._pixels[form] = self._prepare(classifier)
        return self._pixels[form]

    def _prepare(self, classifier: Classifier) -> Pixels:
        match self._request.WhichOneof("image"):
            case "encoded":
                return classifier.prepare(self._encoded)
            case "raw":
                raw, (height, width) = self._request.raw, classifier.shape[:2]
                if (raw.height, raw.width) != (height, width) or len(raw.pixels) != math.prod(classifier.shape):
                    raise InvalidRequestError(
                        f"raw pixels must be {' x '.join(map(str, classifier.shape))}, {math.prod(classifier.shape)} "
                        f"bytes; the request has {raw.height} x {raw.width} and {len(raw.pixels)} bytes. Send a PNG, "
                        "JPEG or WebP file to have it converted."
                    )
                return np.frombuffer(raw.pixels, np.uint8).reshape(classifier.shape)
            case _:
                raise InvalidRequestError("no image in the request; set `encoded` (a PNG, JPEG or WebP file) or `raw`")


class ImageQuery(Query):
    """One image for one model."""

    def __init__(self, model_name: str, model_version: str, image: RequestImage, top_k: int) -> None:
        self.model_name = model_name
        self.model_version = model_version
        self._image = image
        self._top_k = top_k

    @property
    def is_large(self) -> bool:
        return self._image.is_large

    def prepare(self, model: Servable, call: TransportCall) -> None:
        classifier = Classifier.from_signature(model.name, model.signature)
        started = time.perf_counter_ns()
        pixels = self._image.pixels(classifier)
        preprocess_ns = time.perf_counter_ns() - started
        (tensor,) = model.signature.inputs

        def encode(result: InferenceResult) -> pb.ClassifyResponse:
            return _response(model, classifier, result, self._top_k, preprocess_ns)

        call.inputs, call.encode, call.outputs = {tensor.name: pixels[np.newaxis]}, encode, ()
        call.samples, call.batch_key = model.check(call.inputs, {tensor.name: tensor.datatype})


def classify_query(request: pb.ClassifyRequest) -> ImageQuery:
    """Return the query of a Classify request."""
    return ImageQuery(request.model_name, request.model_version, RequestImage(request), request.top_k)


def _response(
    model: Servable, classifier: Classifier, result: InferenceResult, top_k: int, preprocess_ns: int
) -> pb.ClassifyResponse:
    """Make the response. Raises InferenceError if the result makes no sense."""
    predicted = classifier.read(result.outputs, top_k)
    timings = result.timings
    return pb.ClassifyResponse(
        model_name=model.name,
        model_version=model.version,
        labels=[
            pb.LabelScore(
                label=model.signature.labels[score.index],
                index=score.index,
                probability=score.probability,
                distance=score.distance,
            )
            for score in predicted.labels
        ],
        timings=pb.Timings(
            preprocess_ns=preprocess_ns,
            queue_ns=timings.queue_ns,
            compute_ns=timings.compute_ns,
            batch_size=timings.batch_size,
            stages=[
                pb.Stage(
                    model=stage.member,
                    queue_ns=stage.queue_ns,
                    compute_ns=stage.compute_ns,
                    batch_size=stage.batch_size,
                )
                for stage in timings.stages
            ],
        ),
        task=pb.TASK_MULTI_LABEL if classifier.is_multi_label else pb.TASK_SINGLE_LABEL,
        path_probability=predicted.path_probability,
        unsure=timings.low_confidence > 0,
    )


def compare_queries(request: pb.CompareRequest, engine: Engine) -> list[ImageQuery]:
    """Return the query of each model that a comparison names, or of every classifier that is served.

    Raises:
        InvalidRequestError: Too many models are named, or a model is named twice.
        NotFoundError: No model is named, and no served model classifies pictures.
        UnavailableError: No model is named, and the models are still being loaded.
    """
    choices: Sequence[pb.ModelChoice] = request.models or _every_classifier(engine)
    if len(choices) > MAX_COMPARED:
        raise InvalidRequestError(f"{len(choices)} models; at most {MAX_COMPARED} can be compared on one image")
    seen: set[tuple[str, str]] = set()
    for choice in choices:
        if (choice.name, choice.version) in seen:
            raise InvalidRequestError(f"model {choice.name!r} is given twice; name each model once")
        seen.add((choice.name, choice.version))
    image = RequestImage(request)
    return [ImageQuery(choice.name, choice.version, image, request.top_k) for choice in choices]


def _every_classifier(engine: Engine) -> list[pb.ModelChoice]:
    if not engine.ready:
        raise UnavailableError("the server is loading its models, or stopping; name the models, or try again later")
    names = {model.name for model in engine.models if model.signature.picture_shape is not None}
    if not names:
        raise NotFoundError("no served model classifies pictures; call the models for inference instead")
    return [pb.ModelChoice(name=name) for name in sorted(names)]
