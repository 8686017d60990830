"""Convert between ModelInfer's messages and named arrays."""

import time
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from hangtag.serving.server.errors import InvalidRequestError
from hangtag.serving.signature import Signature, TensorSpec

Arrays = dict[str, npt.NDArray[Any]]
T = TypeVar("T")

TIMEOUT = "timeout"  # Triton's parameter of a request
# Triton's parameters of a tensor that change what is sent or answered. They are refused; all others are ignored.
_UNSUPPORTED = {
    "classification": "ask for the output itself, or for labels with Classify (POST /v1/classify over HTTP)",
    "shared_memory_region": "send tensors in the request, and take them from the answer",
}


def parse_message(parse: Callable[[bytes], T], message: bytes, method: str) -> T:
    """Return the message that these bytes are.

    Args:
        parse: The message's FromString.
        message: What the caller sent.
        method: /package.Service/Method, for the error.

    Raises:
        InvalidRequestError: The bytes are not such a message.
    """
    try:
        return parse(message)
    except DecodeError as error:
        raise InvalidRequestError(
            f"the bytes are not a message that {method} takes; generate the caller's stubs from protos/*.proto"
        ) from error


def decode_inputs(request: pb.ModelInferRequest, signature: Signature) -> tuple[Arrays, dict[str, str]]:
    """Return the request's arrays and their datatypes, by input name.

    Of more inputs than the model has only one more is decoded, which is enough to find one that is unknown or given
    twice: a message may hold a million.

    Raises:
        InvalidRequestError: Names, contents, datatypes and shapes do not match, or a parameter is not supported.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequestError(
            f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs; send one for each, in the same order"
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
    """Return the outputs that the request names, in its order; all of the model's when it names none.

    Raises:
        InvalidRequestError: The model does not have one, one is named twice, or a parameter is not supported.
    """
    outputs = request.outputs[: len(signature.outputs) + 1]  # as for inputs: enough to find one that is wrong
    for output in outputs:
        require_supported(output.name, output.parameters)
    return output_specs([output.name for output in outputs], signature)


def output_specs(names: Sequence[str], signature: Signature) -> Sequence[TensorSpec]:
    """Return the outputs of these names, in their order; all of the model's when there is no name.

    Raises:
        InvalidRequestError: The model does not have one, or one is named twice.
    """
    if not names:
        return signature.outputs
    specs = [(name, signature.output(name)) for name in names]
    if len(set(names)) < len(names):  # a small request could ask for a huge answer
        raise InvalidRequestError("an output is requested twice; name each one once")
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


def request_deadline(request: pb.ModelInferRequest, deadline: float | None) -> float | None:
    """Return the earlier one of the call's deadline and the request's own, which its parameter ``timeout`` sets.

    A stream has one deadline for all its requests, so there the parameter alone can give each its own.

    Args:
        request: Its timeout is in microseconds, as Triton's is, and counts from now.
        deadline: The call's, on the monotonic clock in seconds; None when it has none.

    Raises:
        InvalidRequestError: The timeout is not above 0.
    """
    if TIMEOUT not in request.parameters:
        return deadline
    return earlier_deadline(request.parameters[TIMEOUT].int64_param, deadline)


def earlier_deadline(microseconds: int, deadline: float | None) -> float:
    """Return the earlier one of a deadline and of one in so many microseconds, at least 1; else InvalidRequestError."""
    if microseconds <= 0:
        raise InvalidRequestError(
            f"the parameter {TIMEOUT!r} must be an int64 of microseconds above 0, not {microseconds}"
        )
    own = time.monotonic() + microseconds / 1e6
    return own if deadline is None else min(own, deadline)


def require_supported(tensor: str, parameters: Container[str]) -> None:
    """Raise InvalidRequestError if a tensor has a parameter that would change what is sent or answered."""
    if parameters:
        for name, instead in _UNSUPPORTED.items():
            if name in parameters:
                raise InvalidRequestError(f"{tensor!r}: the parameter {name!r} is not supported; {instead}")


def as_text(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """BYTES as str, because ONNX's strings are UTF-8 text. Raises ValueError for other bytes."""
    text = np.empty(array.size, np.object_)
    text[:] = [element.decode() for element in array.flat]
    return text.reshape(array.shape)
