"""Decodes ModelInfer requests to arrays, encodes the responses, and finds the plan of a request (see ``plans``)."""

from collections.abc import Callable, Container
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from hangtag.protos.methods import MODEL_INFER
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import InvalidRequestError
from hangtag.serving.server.queue.call import Tensors
from hangtag.serving.server.wire.plans import BY_VALUE, TIMEOUT, Arrays, Plan, Plans, admit
from hangtag.serving.server.wire.transport_call import LARGE_MESSAGE, Query, TransportCall, submit, submit_on_thread
from hangtag.serving.signature import Signature

T = TypeVar("T")

# Triton's tensor parameters that change how a tensor is sent, or what the answer contains. The server refuses these
# parameters, and ignores all others.
_UNSUPPORTED = {
    "classification": "ask for the output itself, or for labels with Classify (POST /v1/classify over HTTP)",
    "shared_memory_region": "send tensors in the request, and read outputs from the answer",
}
_MAX_HEAD = 1024  # bytes


def parse_message(parse: Callable[[bytes], T], message: object, method: str) -> T:
    """Parse a message with its FromString. Raises InvalidRequestError if the bytes are not a message of this method, or
    if ``message`` is not bytes, which means that the caller sent no message."""
    if not isinstance(message, bytes):
        raise InvalidRequestError("the call has no message, and its method needs a message")
    try:
        return parse(message)
    except DecodeError as error:
        raise InvalidRequestError(
            f"the bytes are not a message that {method} takes; generate the caller's stubs from protos/*.proto"
        ) from error


def _decode_inputs(request: pb.ModelInferRequest, signature: Signature) -> tuple[Arrays, dict[str, str]]:
    """Return the request's arrays and their datatypes, by input name. A message may hold a million inputs, so decoding
    stops after one input more than the model has, which is enough to detect an unknown or duplicate input."""
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


class MessageQuery(Query):
    """A ModelInferRequest, whose bytes are ``message``. The response is a ModelInferResponse. A plan of the request is
    added to ``plans`` if possible."""

    def __init__(self, request: pb.ModelInferRequest, message: bytes = b"", plans: Plans | None = None) -> None:
        super().__init__(request.model_name, request.model_version)
        self._request = request
        self._message = message
        self._plans = plans

    def prepare(self, model: Servable, call: TransportCall) -> None:
        request, signature = self._request, model.signature
        call.id = request.id
        outputs = request.outputs[: len(signature.outputs) + 1]  # enough to detect an unknown or a duplicate output
        for output in outputs:
            require_supported(output.name, output.parameters)
        inputs, datatypes = _decode_inputs(request, signature)
        timeout = request.parameters[TIMEOUT].int64_param if TIMEOUT in request.parameters else None
        specs = admit(call, model, inputs, datatypes, [output.name for output in outputs], timeout)
        name, version, identity = request.model_name, model.version, request.id

        def encode(arrays: Tensors) -> pb.ModelInferResponse:
            response = pb.ModelInferResponse(model_name=name, model_version=version, id=identity)
            for spec in specs:
                response.outputs.add(name=spec.name, datatype=spec.datatype, shape=arrays[spec.name].shape)
                response.raw_output_contents.append(tensors.to_raw(arrays[spec.name]))
            return response

        call.encode = lambda result: encode(result.outputs)
        if self._plans is None or request.id or any(spec.datatype == "BYTES" for spec in specs):
            return
        if (head := _head_of(request, self._message)) is not None:
            self._plans.keep(head, Plan(call, model, specs, lambda zeros: _heads(encode(zeros))))


def _heads(response: pb.ModelInferResponse) -> list[bytes]:
    alone = [pb.ModelInferResponse(raw_output_contents=[raw]) for raw in response.raw_output_contents]
    heads = [each.SerializeToString().removesuffix(each.raw_output_contents[0]) for each in alone]
    response.ClearField("raw_output_contents")
    heads[0] = response.SerializeToString() + heads[0]
    return heads


def submit_infer(call: TransportCall, plans: Plans, message: bytes) -> None:
    """Queue the call of a ModelInfer message, with the message's plan if there is one."""
    plan = plans.find(message)
    if plan is not None and plan.put(call, message):
        return

    def read() -> MessageQuery:
        return MessageQuery(parse_message(pb.ModelInferRequest.FromString, message, MODEL_INFER), message, plans)

    if len(message) >= LARGE_MESSAGE:
        submit_on_thread([call], [read])
    else:
        submit(call, read)


def serialized(response: pb.ModelInferResponse | bytes) -> bytes:
    """Return the response's bytes. A query returns a response as a message, but a plan returns bytes."""
    return response if isinstance(response, bytes) else response.SerializeToString()


def _head_of(request: pb.ModelInferRequest, message: bytes) -> bytes | None:
    """Return a message's bytes before the contents of its only tensor. Return None if other messages that begin with
    these bytes may differ from this message in more than the contents."""
    has_one_tensor = len(request.inputs) == len(request.raw_input_contents) == 1
    if not has_one_tensor or request.inputs[0].datatype not in BY_VALUE or request.parameters:
        return None
    (raw,) = request.raw_input_contents
    field = pb.ModelInferRequest(raw_input_contents=[raw]).SerializeToString()
    # If the bytes before this field are a complete message by themselves, the field is the message's last field.
    try:
        rest = pb.ModelInferRequest.FromString(message.removesuffix(field))
    except DecodeError:
        return None
    head = message[: len(message) - len(raw)]
    return head if raw and len(head) <= _MAX_HEAD and not rest.raw_input_contents else None
