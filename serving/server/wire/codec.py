"""Converts the messages of ModelInfer from and to named arrays, and makes queries from requests."""

import time
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from hangtag.serving.server.engine.servable import Admission, Servable
from hangtag.serving.server.errors import InvalidRequestError
from hangtag.serving.server.queue.call import InferenceResult
from hangtag.serving.server.wire.transport_call import Query, TransportCall
from hangtag.serving.signature import Signature, TensorSpec

Arrays = dict[str, npt.NDArray[Any]]
T = TypeVar("T")

Learn: TypeAlias = Callable[[pb.ModelInferRequest, Servable, Sequence[TensorSpec], Admission], None]
"""A function that gets a request, the model that admitted it, the requested outputs, and the result of the model's
check."""

TIMEOUT = "timeout"  # Triton's parameter of a request: a time limit in microseconds after it is read
# Triton's parameters of a tensor that change the tensors in the request or in the answer. The server refuses these
# parameters, and ignores all others.
_UNSUPPORTED = {
    "classification": "ask for the output itself, or for labels with Classify (POST /v1/classify over HTTP)",
    "shared_memory_region": "send tensors in the request, and take them from the answer",
}


def parse_message(parse: Callable[[bytes], T], message: bytes, method: str) -> T:
    """Parse a message.

    Args:
        parse: The message's FromString.
        message: The bytes that the caller sent.
        method: /package.Service/Method, for the error.

    Raises:
        InvalidRequestError: The bytes are not a message of this method.
    """
    try:
        return parse(message)
    except DecodeError as error:
        raise InvalidRequestError(
            f"the bytes are not a message that {method} takes; generate the caller's stubs from protos/*.proto"
        ) from error


def decode_inputs(request: pb.ModelInferRequest, signature: Signature) -> tuple[Arrays, dict[str, str]]:
    """Return the request's arrays and their datatypes, by input name.

    A message may hold a million inputs, so at most one input more than the model has is decoded. This number is enough
    to detect an unknown or a duplicate input.

    Raises:
        InvalidRequestError: Names, contents, datatypes and shapes do not match, or a parameter is not supported.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequestError(
            f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs; send one entry for each input, in the "
            "order of the inputs"
        )
    arrays: Arrays = {}
    inputs = request.inputs[: len(signature.inputs) + 1]
    for index, tensor in enumerate(inputs):
        if tensor.name in arrays:
            raise InvalidRequestError(f"input {tensor.name!r} is given twice")
        require_supported(tensor.name, tensor.parameters)
        if raw and tensor.HasField("contents"):
            raise InvalidRequestError(
                f"input {tensor.name!r} has both contents and raw_input_contents; send one of them"
            )
        try:
            if raw:
                array = tensors.from_raw(tensor.datatype, tensor.shape, raw[index])
            else:
                array = tensors.from_contents(tensor.datatype, tensor.shape, tensor.contents)
            arrays[tensor.name] = as_text(array) if tensor.datatype == "BYTES" else array
        except ValueError as error:
            raise InvalidRequestError(f"input {tensor.name!r}: {error}") from error
    return arrays, {tensor.name: tensor.datatype for tensor in inputs}


def requested_outputs(request: pb.ModelInferRequest, signature: Signature) -> Sequence[TensorSpec]:
    """Return the outputs that the request names, in the request's order, or all of the model's outputs if it names
    none.

    Raises:
        InvalidRequestError: The model lacks an output, an output is named twice, or a parameter is not supported.
    """
    # one output more than the model has is enough to find an unknown or duplicate output
    outputs = request.outputs[: len(signature.outputs) + 1]
    for output in outputs:
        require_supported(output.name, output.parameters)
    return output_specs([output.name for output in outputs], signature)


def output_specs(names: Sequence[str], signature: Signature) -> Sequence[TensorSpec]:
    """Return the outputs with these names, in the names' order, or all of the model's outputs if there are no names.

    Raises:
        InvalidRequestError: The model lacks an output, or an output is named twice.
    """
    if not names:
        return signature.outputs
    specs = [(name, signature.output(name)) for name in names]
    if len(set(names)) < len(names):  # a small request could ask for a huge answer
        raise InvalidRequestError("an output is requested twice; name each output once")
    unknown = [name for name, spec in specs if spec is None]
    if unknown:
        known = "; ".join(str(spec) for spec in signature.outputs)
        raise InvalidRequestError(f"unknown output {unknown[0]!r}; the model gives {known}")
    return [spec for _, spec in specs if spec is not None]


def encode_response(
    request: pb.ModelInferRequest,
    version: str,
    specs: Sequence[TensorSpec],
    outputs: Mapping[str, npt.NDArray[Any]],
) -> pb.ModelInferResponse:
    """Return the response, with the requested outputs as raw bytes.

    Args:
        request: Gives the names and the id.
        version: The version that answered.
        specs: The requested outputs, in order.
        outputs: The model's arrays by name.
    """
    return pb.ModelInferResponse(
        model_name=request.model_name,
        model_version=version,
        id=request.id,
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(
                name=spec.name, datatype=spec.datatype, shape=outputs[spec.name].shape
            )
            for spec in specs
        ],
        raw_output_contents=[tensors.to_raw(outputs[spec.name]) for spec in specs],
    )


def earlier_deadline(microseconds: int, deadline: float | None) -> float:
    """Return the earlier of ``deadline`` and now plus ``microseconds``, which must be above 0 (InvalidRequestError)."""
    if microseconds <= 0:
        raise InvalidRequestError(
            f"the parameter {TIMEOUT!r} must be an int64 of microseconds above 0, not {microseconds}"
        )
    own = time.monotonic() + microseconds / 1e6
    return own if deadline is None else min(own, deadline)


def require_supported(tensor: str, parameters: Container[str]) -> None:
    """Raise InvalidRequestError if a tensor has a parameter that would change the tensor's data or the answer."""
    if parameters:
        for name, instead in _UNSUPPORTED.items():
            if name in parameters:
                raise InvalidRequestError(f"{tensor!r}: the parameter {name!r} is not supported; {instead}")


def as_text(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return BYTES as str, because ONNX's strings are UTF-8 text. Raises ValueError for bytes that are not UTF-8."""
    text = np.empty(array.size, np.object_)
    text[:] = [element.decode() for element in array.flat]
    return text.reshape(array.shape)


class InferQuery(Query):
    """A ModelInferRequest from a unary call or a stream. The response is a ModelInferResponse."""

    def __init__(self, request: pb.ModelInferRequest, learn: Learn | None = None) -> None:
        """Keep the request. ``learn`` keeps a plan of the request; with None, no plan is kept."""
        self._request = request
        self.model_name = request.model_name
        self.model_version = request.model_version
        self._learn = learn

    def prepare(self, model: Servable, call: TransportCall) -> None:
        request = self._request
        call.id = request.id
        inputs, datatypes = decode_inputs(request, model.signature)
        specs = requested_outputs(request, model.signature)
        admission = model.check(inputs, datatypes)
        if self._learn is not None:
            self._learn(request, model, specs, admission)

        def encode(result: InferenceResult) -> pb.ModelInferResponse:
            return encode_response(request, model.version, specs, result.outputs)

        call.inputs, call.encode, call.outputs = inputs, encode, [spec.name for spec in specs]
        call.samples, call.batch_key = admission
        if TIMEOUT in request.parameters:  # a stream has one deadline, but each of its requests may have this parameter
            call.deadline = earlier_deadline(request.parameters[TIMEOUT].int64_param, call.deadline)
