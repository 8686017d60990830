"""hangtag.v1.Classifier: an image in, labels with probabilities out."""

import time

import grpc
import numpy as np

from protos import classifier_pb2 as pb
from protos import classifier_pb2_grpc
from serving.server import images
from serving.server.engine import Engine
from serving.server.errors import InvalidRequestError
from serving.server.model import ServedModel
from serving.server.transport.call import infer
from serving.server.transport.status import answers_errors

DEFAULT_TOP_K = 3


class ClassifierService(classifier_pb2_grpc.ClassifierServicer):
    """Works with every model that takes one UINT8 picture and carries labels for its ``probabilities``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @answers_errors
    def Classify(self, request: pb.ClassifyRequest, context: grpc.ServicerContext) -> pb.ClassifyResponse:
        model = self._engine.model(request.model_name, request.model_version)
        height, width = _picture_size(model)
        started = time.perf_counter_ns()
        pixels = _pixels(request, height, width)
        preprocess_ns = time.perf_counter_ns() - started
        image = model.signature.inputs[0]
        answer = infer(model, {image.name: pixels[np.newaxis]}, {image.name: image.datatype}, context)
        probabilities = answer.outputs["probabilities"][0]
        best = np.argsort(-probabilities, kind="stable")[: request.top_k or DEFAULT_TOP_K]
        timings = answer.timings
        return pb.ClassifyResponse(
            model_name=model.name,
            model_version=model.version,
            labels=[
                pb.LabelScore(label=model.signature.labels[index], index=index, probability=probabilities[index])
                for index in best
            ],
            timings=pb.Timings(
                preprocess_ns=preprocess_ns,
                queue_ns=timings.queue_ns,
                compute_ns=timings.compute_input_ns + timings.compute_infer_ns + timings.compute_output_ns,
                batch_size=timings.batch_size,
            ),
        )


def _picture_size(model: ServedModel) -> tuple[int, int]:
    """Height and width of the picture that the model takes. Raises InvalidRequestError for a model of another kind."""
    signature = model.signature
    probabilities = signature.output("probabilities")
    if len(signature.inputs) == 1 and probabilities and signature.labels:
        match signature.inputs[0].datatype, signature.inputs[0].shape, probabilities.shape:
            case ["UINT8", [None, int(height), int(width)], [None, int(count)]] if count == len(signature.labels):
                return height, width
    raise InvalidRequestError(
        f"{model.name!r} is not a classifier of pictures (it needs one UINT8 [batch, height, width] input, an output "
        "`probabilities`, and hangtag.labels in its metadata); call it with ModelInfer"
    )


def _pixels(request: pb.ClassifyRequest, height: int, width: int) -> images.Pixels:
    match request.WhichOneof("image"):
        case "encoded":
            return images.decode(request.encoded, height, width)
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
