"""ModelInfer's messages <-> named arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from hangtag.serving.server.errors import InvalidRequestError
from hangtag.serving.signature import Signature, TensorSpec

Arrays = dict[str, npt.NDArray[Any]]

# Parameters of one tensor, in Triton's protocol, that would change what is sent or answered; others are left alone.
_UNKNOWN = {
    "classification": "ask for the output itself, or Classify of hangtag.v1.Classifier for labels",
    "shared_memory_region": "send tensors in the request, and take them from the answer",
}


def decode_inputs(request: pb.ModelInferRequest) -> tuple[Arrays, dict[str, str]]:
    """The request's arrays and their datatypes, by name. Raises InvalidRequestError when they do not hold together."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequestError(
            f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs; send one for each, in the same order"
        )
    arrays: Arrays = {}
    for index, tensor in enumerate(request.inputs):
        if tensor.name in arrays:
            raise InvalidRequestError(f"input {tensor.name!r} is given twice")
        _require_known(tensor)
        if raw and tensor.HasField("contents"):
            raise InvalidRequestError(
                f"input {tensor.name!r} has both contents and raw_input_contents; send one of them"
            )
        try:
            if raw:
                array = tensors.from_raw(tensor.datatype, tensor.shape, raw[index])
            else:
                array = tensors.from_contents(tensor.datatype, tensor.shape, tensor.contents)
            arrays[tensor.name] = _as_text(array) if tensor.datatype == "BYTES" else array
        except ValueError as error:
            raise InvalidRequestError(f"input {tensor.name!r}: {error}") from error
    return arrays, {tensor.name: tensor.datatype for tensor in request.inputs}


def requested_outputs(request: pb.ModelInferRequest, signature: Signature) -> Sequence[TensorSpec]:
    """Which outputs the caller wants, in its order; all of them when it names none."""
    if not request.outputs:
        return signature.outputs
    for output in request.outputs:
        _require_known(output)
    specs = [(output.name, signature.output(output.name)) for output in request.outputs]
    if len({name for name, _ in specs}) < len(specs):  # a small request could ask for a huge answer
        raise InvalidRequestError("an output is asked for twice; name each one once")
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
    """The answer, its tensors as raw bytes."""
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


def _require_known(
    tensor: pb.ModelInferRequest.InferInputTensor | pb.ModelInferRequest.InferRequestedOutputTensor,
) -> None:
    if tensor.parameters:
        for name, instead in _UNKNOWN.items():
            if name in tensor.parameters:
                raise InvalidRequestError(f"{tensor.name!r} has the parameter {name!r}, not known here: {instead}")


def _as_text(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """ONNX's strings are UTF-8 text. Raises ValueError for other bytes."""
    text = np.empty(array.size, np.object_)
    text[:] = [element.decode() for element in array.flat]
    return text.reshape(array.shape)
