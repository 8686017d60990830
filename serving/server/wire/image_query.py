"""A classification as a query: one image of hangtag.v1.Classifier for one model that classifies pictures."""

import math
import time
from typing import TypeAlias

import numpy as np

from hangtag.protos import classifier_pb2 as pb
from hangtag.serving.image_spec import ImageSpec, Pixels
from hangtag.serving.server.batching.call import InferenceResult
from hangtag.serving.server.classification.classifier import Classifier
from hangtag.serving.server.classification.image_decoding import is_large
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import InvalidRequestError
from hangtag.serving.server.transport.call import Query, TransportCall

Request: TypeAlias = pb.ClassifyRequest | pb.CompareRequest


class RequestImage:
    """The image of a request, prepared once for all models that take the same pictures."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._pixels: dict[tuple[ImageSpec | None, tuple[int, ...], bool], Pixels] = {}

    @property
    def is_large(self) -> bool:
        """Whether preparing the image may take long, and wait for the memory that other large images take."""
        return self._request.WhichOneof("image") == "encoded" and is_large(self._request.encoded)

    def pixels(self, classifier: Classifier) -> Pixels:
        """Return UINT8 in the classifier's shape. Raises InvalidRequestError for an unusable image."""
        form = (classifier.signature.image, classifier.shape, classifier.is_multi_label)
        if form not in self._pixels:
            self._pixels[form] = self._prepare(classifier)
        return self._pixels[form]

    def _prepare(self, classifier: Classifier) -> Pixels:
        match self._request.WhichOneof("image"):
            case "encoded":
                return classifier.prepare(self._request.encoded)
            case "raw":
                raw, (height, width) = self._request.raw, classifier.shape[:2]
                if (raw.height, raw.width) != (height, width) or len(raw.pixels) != math.prod(classifier.shape):
                    raise InvalidRequestError(
                        f"raw pixels must be {' x '.join(map(str, classifier.shape))}, {math.prod(classifier.shape)} "
                        f"bytes; got {raw.height} x {raw.width} and {len(raw.pixels)} bytes. Send a PNG, JPEG or WebP "
                        "file to have it converted."
                    )
                return np.frombuffer(raw.pixels, np.uint8).reshape(classifier.shape)
            case _:
                raise InvalidRequestError("no image in the request; set `encoded` (a PNG, JPEG or WebP file) or `raw`")


class ImageQuery:
    """One image for one model."""

    def __init__(self, model_name: str, model_version: str, image: RequestImage, top_k: int) -> None:
        self.model_name = model_name
        self.model_version = model_version
        self.image = image
        self._top_k = top_k

    def prepare(self, model: Servable, call: TransportCall) -> None:
        classifier = Classifier.from_signature(model.name, model.signature)
        started = time.perf_counter_ns()
        pixels = self.image.pixels(classifier)
        preprocess_ns = time.perf_counter_ns() - started
        (tensor,) = model.signature.inputs

        def encode(result: InferenceResult) -> pb.ClassifyResponse:
            return _response(model, classifier, result, self._top_k, preprocess_ns)

        call.inputs, call.encode, call.outputs = {tensor.name: pixels[np.newaxis]}, encode, ()
        call.samples, call.batch_key = model.check(call.inputs, {tensor.name: tensor.datatype})


def has_large_picture(query: Query) -> bool:
    """Whether decoding a query may take long, and wait for the memory that other large images take."""
    return isinstance(query, ImageQuery) and query.image.is_large


def classify_query(request: pb.ClassifyRequest) -> ImageQuery:
    """Return the query of a Classify request."""
    return ImageQuery(request.model_name, request.model_version, RequestImage(request), request.top_k)


def _response(
    model: Servable, classifier: Classifier, result: InferenceResult, top_k: int, preprocess_ns: int
) -> pb.ClassifyResponse:
    """Raises InferenceError for a result that has no meaning."""
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
        unsure=timings.unsure > 0,
    )
