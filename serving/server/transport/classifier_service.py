"""hangtag.v1.Classifier: an image in, labels with probabilities out."""

import time

import grpc
import numpy as np

from protos import classifier_pb2 as pb
from protos import classifier_pb2_grpc
from serving.server import images
from serving.server.classification import Classifier
from serving.server.engine import Engine
from serving.server.errors import InvalidRequestError
from serving.server.model import ServedModel
from serving.server.transport.call import infer
from serving.server.transport.lookup import with_model
from serving.server.transport.status import answers_errors, counts_failures


class ClassifierService(classifier_pb2_grpc.ClassifierServicer):
    """Works with every model that takes one UINT8 picture and carries labels for its ``probabilities``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @answers_errors
    @counts_failures
    def Classify(self, request: pb.ClassifyRequest, context: grpc.ServicerContext) -> pb.ClassifyResponse:
        def ask(model: ServedModel) -> pb.ClassifyResponse:
            return _classify(model, request, context)

        return with_model(self._engine, request.model_name, request.model_version, ask)


def _classify(model: ServedModel, request: pb.ClassifyRequest, context: grpc.ServicerContext) -> pb.ClassifyResponse:
    classifier = Classifier.of(model.name, model.signature)
    started = time.perf_counter_ns()
    pixels = _pixels(request, classifier)
    preprocess_ns = time.perf_counter_ns() - started
    image = model.signature.inputs[0]
    answer = infer(model, {image.name: pixels[np.newaxis]}, {image.name: image.datatype}, context)
    classification = classifier.read(answer.outputs, request.top_k)
    timings = answer.timings
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
            for score in classification.labels
        ],
        timings=pb.Timings(
            preprocess_ns=preprocess_ns,
            queue_ns=timings.queue_ns,
            compute_ns=timings.compute_ns,
            batch_size=timings.batch_size,
        ),
        task=pb.TASK_MULTI_LABEL if classifier.is_multi_label else pb.TASK_SINGLE_LABEL,
        path_probability=classification.path_probability,
    )


def _pixels(request: pb.ClassifyRequest, classifier: Classifier) -> images.Pixels:
    height, width = classifier.height, classifier.width
    match request.WhichOneof("image"):
        case "encoded":
            return images.decode(request.encoded, height, width, whole=classifier.is_multi_label)
        case "raw":
            raw = request.raw
            if (raw.height, raw.width) != (height, width) or len(raw.pixels) != height * width:
                raise InvalidRequestError(
                    f"raw pixels must be {height} x {width}, {height * width} bytes; got {raw.height} x {raw.width} "
                    f"and {len(raw.pixels)} bytes. Send a file as `encoded` to have it converted."
                )
            return np.frombuffer(raw.pixels, np.uint8).reshape(height, width)
        case _:
            raise InvalidRequestError("no image in the request; set `encoded` (a PNG, JPEG or WebP file) or `raw`")
