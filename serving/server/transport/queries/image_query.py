"""A classification as a query: one image of hangtag.v1.Classifier for one model that classifies pictures."""

import time
from typing import Any, TypeAlias

import numpy as np

from hangtag.protos import classifier_pb2 as pb
from hangtag.serving.server.batching.request import InferenceResult
from hangtag.serving.server.classification import image_preprocessing as images
from hangtag.serving.server.classification.classifier import Classifier
from hangtag.serving.server.classification.image_decoding import is_large
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import InvalidRequestError
from hangtag.serving.server.transport.call import Call
from hangtag.serving.server.transport.submission import PreparedQuery, Query

Request: TypeAlias = pb.ClassifyRequest | pb.CompareRequest


class RequestImage:
    """The image of a request, converted once for each size and kind of model, however many models get it."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._pixels: dict[tuple[int, int, bool], images.Pixels] = {}

    @property
    def is_large(self) -> bool:
        """Whether converting the image may take long, and wait for the memory that other large images take."""
        return self._request.WhichOneof("image") == "encoded" and is_large(self._request.encoded)

    def pixels(self, classifier: Classifier) -> images.Pixels:
        """Return UINT8 [height, width] in the classifier's size. Raises InvalidRequestError for an unusable image."""
        form = (classifier.height, classifier.width, classifier.is_multi_label)
        if form not in self._pixels:
            self._pixels[form] = self._convert(*form)
        return self._pixels[form]

    def _convert(self, height: int, width: int, whole: bool) -> images.Pixels:
        match self._request.WhichOneof("image"):
            case "encoded":
                return images.preprocess(self._request.encoded, height, width, whole=whole)
            case "raw":
                raw = self._request.raw
                if (raw.height, raw.width) != (height, width) or len(raw.pixels) != height * width:
                    raise InvalidRequestError(
                        f"raw pixels must be {height} x {width}, {height * width} bytes; got {raw.height} x "
                        f"{raw.width} and {len(raw.pixels)} bytes. Send a PNG, JPEG or WebP file to have it converted."
                    )
                return np.frombuffer(raw.pixels, np.uint8).reshape(height, width)
            case _:
                raise InvalidRequestError("no image in the request; set `encoded` (a PNG, JPEG or WebP file) or `raw`")


class ImageQuery:
    """One image for one model."""

    def __init__(self, model_name: str, model_version: str, image: RequestImage, top_k: int, call: Call) -> None:
        self.call = call
        self.model_name = model_name
        self.model_version = model_version
        self.image = image
        self._top_k = top_k

    def prepare(self, model: Servable, deadline: float | None) -> PreparedQuery[pb.ClassifyResponse]:
        classifier = Classifier.from_signature(model.name, model.signature)
        started = time.perf_counter_ns()
        pixels = self.image.pixels(classifier)
        preprocess_ns = time.perf_counter_ns() - started
        (tensor,) = model.signature.inputs

        def encode(result: InferenceResult) -> pb.ClassifyResponse:
            return _response(model, classifier, result, self._top_k, preprocess_ns)

        return PreparedQuery({tensor.name: pixels[np.newaxis]}, {tensor.name: tensor.datatype}, deadline, encode)


def has_large_picture(query: Query[Any]) -> bool:
    """Whether decoding a query may take long, and wait for the memory that other large images take."""
    return isinstance(query, ImageQuery) and query.image.is_large


def classify_query(request: pb.ClassifyRequest, call: Call) -> ImageQuery:
    """Return the query of a Classify request."""
    return ImageQuery(request.model_name, request.model_version, RequestImage(request), request.top_k, call)


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
