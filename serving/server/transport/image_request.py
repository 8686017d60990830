"""An image that a model is asked about: from the messages of hangtag.v1.Classifier to the engine, and back."""

import time
from typing import TypeAlias

import numpy as np

from hangtag.protos import classifier_pb2 as pb
from hangtag.serving.server.batching.request import InferenceResult, OnComplete
from hangtag.serving.server.classification import image_preprocessing as images
from hangtag.serving.server.classification.classifier import Classifier
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import InvalidRequestError
from hangtag.serving.server.transport.submission import Asked

Request: TypeAlias = pb.ClassifyRequest | pb.CompareRequest


class Picture:
    """The image of a request, in whatever size and kind models take it; each is made once."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._made: dict[tuple[int, int, bool], images.Pixels] = {}

    def pixels(self, classifier: Classifier) -> images.Pixels:
        """[height, width], as this classifier takes it. Raises InvalidRequestError."""
        form = (classifier.height, classifier.width, classifier.is_multi_label)
        if form not in self._made:
            self._made[form] = self._make(*form)
        return self._made[form]

    def _make(self, height: int, width: int, whole: bool) -> images.Pixels:
        match self._request.WhichOneof("image"):
            case "encoded":
                return images.decode(self._request.encoded, height, width, whole=whole)
            case "raw":
                raw = self._request.raw
                if (raw.height, raw.width) != (height, width) or len(raw.pixels) != height * width:
                    raise InvalidRequestError(
                        f"raw pixels must be {height} x {width}, {height * width} bytes; got {raw.height} x "
                        f"{raw.width} and {len(raw.pixels)} bytes. Send a file as `encoded` to have it converted."
                    )
                return np.frombuffer(raw.pixels, np.uint8).reshape(height, width)
            case _:
                raise InvalidRequestError("no image in the request; set `encoded` (a PNG, JPEG or WebP file) or `raw`")


class ImageRequest:
    """One picture and one model that classifies pictures."""

    def __init__(self, model: ServedModel, picture: Picture, top_k: int) -> None:
        """Raises InvalidRequestError for a model of another kind, or a picture that it cannot take."""
        self.model = model
        self._classifier = Classifier.from_signature(model.name, model.signature)
        self._top_k = top_k
        started = time.perf_counter_ns()
        pixels = picture.pixels(self._classifier)
        self._preprocess_ns = time.perf_counter_ns() - started
        (image,) = model.signature.inputs
        self.inputs = {image.name: pixels[np.newaxis]}
        self.datatypes = {image.name: image.datatype}

    def ask(self, on_complete: OnComplete, deadline: float | None) -> Asked[pb.ClassifyResponse]:
        """Queue it. Raises QueueFullError or UnavailableError."""
        entry = self.model.submit(self.inputs, self.datatypes, on_complete, deadline)
        return Asked(lambda: self.model.cancel(entry), self.read)

    def read(self, answer: InferenceResult) -> pb.ClassifyResponse:
        """Raises InferenceError for an answer that makes no sense."""
        classification = self._classifier.read(answer.outputs, self._top_k)
        timings = answer.timings
        return pb.ClassifyResponse(
            model_name=self.model.name,
            model_version=self.model.version,
            labels=[
                pb.LabelScore(
                    label=self.model.signature.labels[score.index],
                    index=score.index,
                    probability=score.probability,
                    distance=score.distance,
                )
                for score in classification.labels
            ],
            timings=pb.Timings(
                preprocess_ns=self._preprocess_ns,
                queue_ns=timings.queue_ns,
                compute_ns=timings.compute_ns,
                batch_size=timings.batch_size,
            ),
            task=pb.TASK_MULTI_LABEL if self._classifier.is_multi_label else pb.TASK_SINGLE_LABEL,
            path_probability=classification.path_probability,
        )
