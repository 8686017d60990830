"""Build the requests of inferences, and read the arrays that inferences return."""

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import grpc
import numpy as np
import numpy.typing as npt

from hangtag.protos import inference_pb2, tensors
from hangtag.serving.client.classification import InferenceStage, model_choice
from hangtag.serving.connection.errors import ClientError, InputError, reading, sending

Array: TypeAlias = npt.NDArray[Any]

_STAGE = re.compile(r"(.+?);samples=(\d+);queue-ns=(\d+);compute-ns=(\d+);batch-size=(\d+)(?:,|$)")


class Outputs(dict[str, Array]):
    """Maps the name of each output to its array. The attributes contain what the server reported about the answer.

    Attributes:
        model: the name of the model or route, as given in the server's answer.
        version: the version of the model or route.
        answered_by: the models that answered; for a route, the members that answered at least one sample.
        sample_stages: for a route, the number (from 1) of the stage that answered each sample, or only one number if
            the same stage answered all samples. The tuple is empty for a model, and if different stages answered more
            than 1,024 samples.
        stages: for a route, what each member computed, in order; empty for a model.
        unsure: the number of samples for which a cascade returned the answer of a model that was not sure, because the
            next model had no time or no room in its queue.
        queue_ms: milliseconds in the server's queues; None in a stream over gRPC, and if the server is not hangtag's.
        compute_ms: milliseconds of inference; None if ``queue_ms`` is None.
        batch_size: samples in the batch that was computed; for a route, in the batch of its first stage. The size is
            None if ``queue_ms`` is None.

    Example:
        >>> outputs = client.infer("fast-and-accurate", {"image": np.zeros((2, 28, 28), np.uint8)})
        >>> outputs.model, outputs["logits"].shape
        ('fast-and-accurate', (2, 10))
        >>> set(outputs.answered_by) <= {"lstm", "cnn"}
        True
    """

    def __init__(self, response: inference_pb2.ModelInferResponse) -> None:
        """Read a response and its parameters. Raises ValueError if the response does not follow the protocol."""
        super().__init__(
            (output.name, tensors.output(response, index)) for index, output in enumerate(response.outputs)
        )
        values = {key: value.string_param for key, value in response.parameters.items()}
        self.model = response.model_name
        self.version = response.model_version
        self.answered_by: tuple[str, ...] = tuple(values.get("hangtag_model", self.model).split(","))
        numbers = values.get("hangtag_stage", "").split(",")
        self.sample_stages: tuple[int, ...] = tuple(int(number) for number in numbers if number.isdigit())
        self.stages: tuple[InferenceStage, ...] = tuple(
            InferenceStage(model, int(samples), int(queue_ns) / 1e6, int(compute_ns) / 1e6, int(batch_size))
            for model, samples, queue_ns, compute_ns, batch_size in _STAGE.findall(values.get("hangtag_stages", ""))
        )
        self.unsure = int(values.get("hangtag_unsure", 0))
        self.queue_ms = _milliseconds(values.get("hangtag_queue_ns"))
        self.compute_ms = _milliseconds(values.get("hangtag_compute_ns"))
        size = values.get("hangtag_batch_size")
        self.batch_size = None if size is None else int(size)


def _milliseconds(nanoseconds: str | None) -> float | None:
    return None if nanoseconds is None else int(nanoseconds) / 1e6


@sending()
def infer_request(model: str, inputs: Mapping[str, Array], version: str) -> inference_pb2.ModelInferRequest:
    """Build a request that runs a model on arrays. Raises InputError."""
    model, version = model_choice(model, version)
    request = inference_pb2.ModelInferRequest(model_name=model, model_version=version)
    for name, array in inputs.items():
        if not isinstance(array, np.ndarray):
            raise InputError(f"input {name!r} must be a numpy array with the input's dtype, not {type(array).__name__}")
        try:
            datatype, raw = tensors.datatype_of(array), tensors.to_raw(array)
        except ValueError as error:
            raise InputError(f"input {name!r} cannot be sent: {error}") from error
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(raw)
    return request


def outcome(response: Any) -> Outputs | ClientError:
    """Read one response of a stream of inferences: over HTTP, the response to a separate call, or its ClientError.

    Returns a ClientError if the response does not follow the protocol.
    """
    if isinstance(response, ClientError):
        return response
    if isinstance(response, inference_pb2.ModelStreamInferResponse):
        if response.error_message:
            # hangtag's server also sends the status; the protocol itself has only the message.
            status = response.infer_response.parameters["status"].string_param
            code = grpc.StatusCode.__members__.get(status, grpc.StatusCode.UNKNOWN)
            return ClientError(code, response.error_message)
        response = response.infer_response
    try:
        with reading("the server"):
            return Outputs(response)
    except ClientError as error:
        return error
