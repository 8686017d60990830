"""Turns a request to classify an image, or to compare models on it, into one query for each model. Prepares the image,
and reads the labels and their probabilities from the model's outputs.

The metadata ``hangtag.task`` decides how outputs are read. In task ``single_label``, the default, the answer is a
ranking. In task ``multi_label`` the answer is a set of labels:

- If the model has an output ``path``, INT64 [batch, any], the set is that path: the indices of the predicted labels in
  order, padded with -1. The output ``path_probability`` [batch] is the probability of the whole path.
- Otherwise the set is all labels whose probability reaches the threshold, but never fewer than ``min_labels`` labels.
"""

import json
import math
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hangtag.protos import classifier_pb2 as pb
from hangtag.serving.image_spec import ImageSpec, Pixels
from hangtag.serving.server.classification.image_decoding import EncodedImage
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import InferenceError, InvalidRequestError, NotFoundError, UnavailableError
from hangtag.serving.server.queue.call import InferenceResult, Tensors
from hangtag.serving.server.wire.transport_call import Query, TransportCall
from hangtag.serving.signature import Signature

Request: TypeAlias = pb.ClassifyRequest | pb.CompareRequest
MAX_COMPARED = 32  # models that one comparison may name
MULTI_LABEL = "multi_label"
DEFAULT_TOP_K = 3  # labels in the answer of a single-label model if the client does not set top_k


class RequestImage:
    """The image of a request, which is prepared once for all models that accept the same kind of pictures."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._encoded = EncodedImage(request.encoded)
        self._pixels: dict[tuple[ImageSpec | None, tuple[int, ...], bool], Pixels] = {}

    @property
    def is_large(self) -> bool:
        return self._request.WhichOneof("image") == "encoded" and self._encoded.is_large

    def pixels(self, model: Servable) -> Pixels:
        """Return UINT8 pixels as the model accepts them, [height, width] or [height, width, 3]. Raises
        InvalidRequestError, and QueueFullError if too many large images are being decoded."""
        shape, kind = model.signature.picture_shape, self._request.WhichOneof("image")
        if shape is None:
            raise InvalidRequestError(
                f"{model.name!r} does not classify images (a classifier has one UINT8 input, [batch, height, width] or "
                "[batch, height, width, 3], an output `probabilities`, and hangtag.labels in its metadata); call it "
                "for inference instead"
            )
        if kind is None:
            raise InvalidRequestError("no image in the request; set `encoded` (a PNG, JPEG or WebP file) or `raw`")
        form = (model.signature.image, shape, model.signature.task == MULTI_LABEL)
        if form not in self._pixels:
            self._pixels[form] = self._decode(model, shape) if kind == "encoded" else self._raw(shape)
        return self._pixels[form]

    def _raw(self, shape: tuple[int, ...]) -> Pixels:
        raw, size = self._request.raw, math.prod(shape)
        if (raw.height, raw.width) != shape[:2] or len(raw.pixels) != size:
            raise InvalidRequestError(
                f"raw pixels must be {' x '.join(map(str, shape))}, {size} bytes; the request has {raw.height} x "
                f"{raw.width} and {len(raw.pixels)} bytes. Send a PNG, JPEG or WebP file to have it converted."
            )
        return np.frombuffer(raw.pixels, np.uint8).reshape(shape)

    def _decode(self, model: Servable, shape: tuple[int, ...]) -> Pixels:
        (height, width), spec = shape[:2], model.signature.image
        with self._encoded.decoded(channels=shape[2] if len(shape) == 3 else 1) as picture:
            if spec is not None:
                return spec.prepare(picture, whole=model.signature.task == MULTI_LABEL)
            if picture.size == (width, height):
                return np.asarray(picture)
            raise InvalidRequestError(
                f"the image has {picture.width} x {picture.height} pixels, but {model.name!r} accepts {width} x "
                f"{height}, and the model's file does not say how to resize an image. Resize the image yourself, or "
                f"record in the file how to resize images: hangtag models fit {model.name} --fit stretch|crop|pad"
            )


class ImageQuery(Query):
    """One image for one model."""

    def __init__(self, model_name: str, model_version: str, image: RequestImage, top_k: int) -> None:
        super().__init__(model_name, model_version)
        self._image = image
        self._top_k = top_k

    @cached_property
    def is_large(self) -> bool:  # type: ignore[override]  # the image's header is read on a thread
        return self._image.is_large

    def prepare(self, model: Servable, call: TransportCall) -> None:
        started, top_k = time.perf_counter_ns(), self._top_k
        pixels = self._image.pixels(model)
        preprocess_ns = time.perf_counter_ns() - started
        (tensor,) = model.signature.inputs
        call.inputs, call.outputs = {tensor.name: pixels[np.newaxis]}, ()
        call.encode = lambda result: _response(model, result, top_k, preprocess_ns)
        call.samples, call.batch_key = model.check(call.inputs, {tensor.name: tensor.datatype})


def classify_query(request: pb.ClassifyRequest) -> ImageQuery:
    return ImageQuery(request.model_name, request.model_version, RequestImage(request), request.top_k)


def compare_queries(request: pb.CompareRequest, engine: Engine) -> list[ImageQuery]:
    """Return a query for each model that the comparison names or, if it names none, for each served classifier. Raises
    InvalidRequestError, NotFoundError or UnavailableError."""
    choices: Sequence[pb.ModelChoice] = request.models
    if not choices:
        if not engine.ready:
            raise UnavailableError("the server is loading its models, or stopping; name the models, or try again later")
        classifiers = {model.name for model in engine.models if model.signature.picture_shape is not None}
        if not classifiers:
            raise NotFoundError("no served model classifies pictures; use ModelInfer instead")
        choices = [pb.ModelChoice(name=name) for name in sorted(classifiers)]
    if len(choices) > MAX_COMPARED:
        raise InvalidRequestError(f"{len(choices)} models; at most {MAX_COMPARED} can be compared on one image")
    names = [(choice.name, choice.version) for choice in choices]
    if len(set(names)) < len(names):
        repeated = next(name for name, version in names if names.count((name, version)) > 1)
        raise InvalidRequestError(f"model {repeated!r} is given twice; name each model once")
    image = RequestImage(request)
    return [ImageQuery(choice.name, choice.version, image, request.top_k) for choice in choices]


def _response(model: Servable, result: InferenceResult, top_k: int, preprocess_ns: int) -> pb.ClassifyResponse:
    """Make the response. Raises InferenceError if the path has an index that is not a label of the model."""
    signature, timings = model.signature, result.timings
    is_multi_label = signature.task == MULTI_LABEL
    probabilities = result.outputs["probabilities"][0]
    indices, path_probability = _chosen(signature, result.outputs, top_k)
    distances = None if is_multi_label or signature.label_distances is None else signature.label_distances[indices[0]]
    return pb.ClassifyResponse(
        model_name=model.name,
        model_version=model.version,
        labels=[
            pb.LabelScore(
                label=signature.labels[index],
                index=index,
                probability=float(probabilities[index]),
                distance=None if distances is None else distances[index],
            )
            for index in indices
        ],
        timings=pb.Timings(
            preprocess_ns=preprocess_ns,
            queue_ns=timings.queue_ns,
            compute_ns=timings.compute_ns,
            batch_size=timings.batch_size,
            stages=[
                pb.Stage(model=member, queue_ns=queue_ns, compute_ns=compute_ns, batch_size=batch_size)
                for member, _, queue_ns, compute_ns, batch_size in timings.stages
            ],
        ),
        task=pb.TASK_MULTI_LABEL if is_multi_label else pb.TASK_SINGLE_LABEL,
        path_probability=path_probability,
        unsure=timings.low_confidence > 0,
    )


def _chosen(signature: Signature, outputs: Tensors, top_k: int) -> tuple[list[int], float | None]:
    """Return at most top_k labels of the first sample, in order. If the model predicts a path of labels, also return
    the probability of the whole path. A top_k of 0 means DEFAULT_TOP_K labels of a ranking, or all labels of a set."""
    probabilities = outputs["probabilities"][0]
    ranking: npt.NDArray[Any] = np.argsort(-probabilities, kind="stable")
    if signature.task != MULTI_LABEL:
        return ranking[: top_k or DEFAULT_TOP_K].tolist(), None
    path, probability = signature.output("path"), signature.output("path_probability")
    has_path = path is not None and path.datatype == "INT64" and len(path.shape) == 2
    if not has_path or probability is None or len(probability.shape) != 1:
        count = max(int((probabilities >= signature.threshold).sum()), signature.min_labels)
        return ranking[: min(count, top_k or count)].tolist(), None
    indices = outputs["path"][0]
    indices = indices[indices >= 0]
    if (indices >= len(probabilities)).any():
        raise InferenceError(
            f"the model predicted the label index {indices.max()}, but the last index is {len(probabilities) - 1}"
        )
    return indices[: top_k or None].tolist(), float(outputs["path_probability"][0])


def examples(signature: Signature) -> list[dict[str, str]]:
    """Return the ``label`` and the ``png`` of each example picture in a model's file. ``hangtag.examples`` is a JSON
    list of objects, each with a label's index and a PNG file in base64. If an object is malformed, return []."""
    try:
        kept = json.loads(signature.metadata.get("examples", "[]"))
        return [{"label": signature.labels[each["label"]], "png": str(each["png"])} for each in kept]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return []
