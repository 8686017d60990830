"""ModelInfer over HTTP as a query: from the bytes of a body to a response."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from hangtag.protos import tensors
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import InvalidRequestError
from hangtag.serving.server.queue.call import InferenceResult, memory_of
from hangtag.serving.server.transport.http.bodies import compress, decompress, response_encoding
from hangtag.serving.server.transport.http.infer_json import (
    BINARY_SIZE,
    InputHead,
    RequestHead,
    array_of,
    encode_answer,
    parse_head,
)
from hangtag.serving.server.transport.http.infer_plans import HEAD_LENGTH, Learn
from hangtag.serving.server.transport.http.messages import BINARY, JSON, HttpRequest, HttpResponse, cost_headers
from hangtag.serving.server.wire import codec
from hangtag.serving.server.wire.transport_call import Query, TransportCall
from hangtag.serving.signature import Signature, TensorSpec

Arrays = dict[str, npt.NDArray[Any]]


class HttpInferQuery(Query):
    """A request's body and headers. Decoding and decompressing happen in `prepare`."""

    def __init__(self, name: str, version: str, request: HttpRequest, learn: Learn | None = None) -> None:
        """Keep the body and the headers. Decode nothing yet.

        Args:
            name: The model's name.
            version: The version; empty for the version that serves by default.
            request: The request, with a body that may be compressed. The body is removed from the request. The
                request's share of the bodies' memory first counts the body as sent, then the decompressed body, and
                then the arrays.
            learn: Keeps a plan of the request. With None, no plan is kept.
        """
        self.model_name = name
        self.model_version = version
        self._learn = learn
        self._body = request.take_body()
        self._headers: Mapping[bytes, bytes] = request.headers
        self._encoding = self._headers.get(b"content-encoding", b"")
        self._held = request.held
        self._head: RequestHead | None = None
        self._inputs: Arrays | None = None

    def prepare(self, model: Servable, call: TransportCall) -> None:
        if self._inputs is None:  # the query may be prepared again, for a new version
            self._decode()
        head, inputs = self._head, self._inputs
        call.id = identity = "" if head is None else head.id
        datatypes: Mapping[str, str]
        if head is None or inputs is None:
            spec, array = _raw_input(model.signature, self._body)
            inputs, datatypes = {spec.name: array}, {spec.name: spec.datatype}
            specs: Sequence[TensorSpec] = model.signature.outputs
            binary: Sequence[bool] = [True] * len(specs)
        else:
            datatypes = {each.name: each.datatype for each in head.inputs}
            specs = codec.output_specs(head.outputs, model.signature)
            binary = head.binary_outputs or [head.binary_by_default] * len(specs)
            if head.timeout is not None:
                call.deadline = codec.earlier_deadline(head.timeout, call.deadline)
        admission = model.check(inputs, datatypes)
        if head is not None and self._learn is not None:
            self._learn(head, model, specs, admission)

        intake = call.intake  # ``encode`` must not refer to the call: a cycle would keep the arrays in memory

        def encode(result: InferenceResult) -> HttpResponse:
            head, contents = encode_answer(model, specs, binary, result.outputs, identity)
            body = b"".join((head, *contents))
            intake.require_size("Sent", len(body))
            headers = [*cost_headers(model.name, model.version, result.timings)]
            if contents:
                headers.append((HEAD_LENGTH, str(len(head)).encode()))
            if accepted := self._headers.get(b"accept-encoding"):
                body, encoding = compress(body, response_encoding(accepted))
                if encoding:
                    headers.append((b"content-encoding", encoding))
            return HttpResponse(body, BINARY if contents else JSON, headers=headers)

        call.inputs, call.encode, call.outputs = inputs, encode, [spec.name for spec in specs]
        call.samples, call.batch_key = admission

    def _decode(self) -> None:
        """Read the head and the arrays, and drop the body, which would otherwise wait in the queue with the arrays. The
        decompressed body of a request without JSON is kept, because the tensor's shape depends on the model."""
        self._body = body = decompress(self._body, self._encoding, self._held)
        self._encoding = b""
        length = self._headers.get(HEAD_LENGTH)
        if length is None:
            head = parse_head(body)
            offset = len(body)
        else:
            offset = _head_length(length, body)
            if offset == 0:
                return
            head = parse_head(body[:offset])
        if offset + head.binary_bytes != len(body):
            raise InvalidRequestError(
                f"the body has {len(body) - offset} bytes after its JSON of {offset} bytes (the header "
                f"Inference-Header-Content-Length), and the inputs' parameters {BINARY_SIZE!r} add up to "
                f"{head.binary_bytes}"
            )
        inputs = _inputs(head.inputs, body, offset)
        self._held.hold(sum(map(memory_of, inputs.values())))
        self._head, self._inputs, self._body = head, inputs, b""


def _head_length(value: bytes, body: bytes) -> int:
    length = int(value) if value.isdigit() and len(value) < 20 else -1
    if not 0 <= length <= len(body):
        raise InvalidRequestError(
            f"the header Inference-Header-Content-Length is {value.decode('latin-1')[:32]!r}; it must be the length of "
            f"the JSON, at most the body's {len(body)} bytes"
        )
    return length


def _inputs(heads: Sequence[InputHead], body: bytes, offset: int) -> Arrays:
    arrays: Arrays = {}
    for head in heads:
        if head.name in arrays:
            raise InvalidRequestError(f"input {head.name!r} is given twice")
        try:
            if head.binary_size is None:
                arrays[head.name] = array_of(head.datatype, head.shape, head.data)
                head.data = None
            else:
                array = tensors.from_raw(head.datatype, head.shape, body[offset : offset + head.binary_size])
                arrays[head.name] = codec.as_text(array) if head.datatype == "BYTES" else array
                offset += head.binary_size
        except ValueError as error:
            raise InvalidRequestError(f"input {head.name!r}: {error}") from error
    return arrays


def _raw_input(signature: Signature, body: bytes) -> tuple[TensorSpec, npt.NDArray[Any]]:
    """Return the one input of a request without JSON, whose shape follows from the number of bytes."""
    if len(signature.inputs) != 1:
        raise InvalidRequestError(
            f"a request without JSON has one tensor, but the model takes {len(signature.inputs)} inputs; describe the "
            "inputs in JSON, and send the length of the JSON in the header Inference-Header-Content-Length"
        )
    (spec,) = signature.inputs
    try:
        shape = _shape_of(spec, len(body), batched=signature.batched)
        array = tensors.from_raw(spec.datatype, shape, body if spec.datatype != "BYTES" else _one_element(body))
        return spec, codec.as_text(array) if spec.datatype == "BYTES" else array
    except ValueError as error:
        raise InvalidRequestError(f"input {spec.name!r}: {error}") from error


def _shape_of(spec: TensorSpec, size: int, *, batched: bool) -> list[int]:
    """Return the shape of a tensor of this many bytes. Raises ValueError if the signature leaves the shape open."""
    free = [axis for axis, length in enumerate(spec.shape) if length is None]
    if batched and len(free) > 1:  # one sample, like Triton
        free = free[1:]
    if len(free) > 1:
        raise ValueError(
            f"the model takes {spec}, whose shape does not follow from {size} bytes; describe the input in JSON"
        )
    shape = [1 if length is None else length for length in spec.shape]
    if free and spec.datatype != "BYTES":
        one = tensors.DTYPES[spec.datatype].itemsize
        for length in shape:
            one *= length
        shape[free[0]] = size // one if one else 0
    return shape


def _one_element(body: bytes) -> bytes:
    return len(body).to_bytes(4, "little") + body
