"""ModelInfer over HTTP as a query: from the bytes of a body to a response."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hangtag.protos import tensors
from hangtag.serving.server.batching.call import InferenceResult
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import InvalidRequestError, MessageTooLargeError
from hangtag.serving.server.transport import codec
from hangtag.serving.server.transport.call import TransportCall
from hangtag.serving.server.transport.http.bodies import compress, decompress, response_encoding
from hangtag.serving.server.transport.http.body_budget import HeldBytes
from hangtag.serving.server.transport.http.inference import json_values
from hangtag.serving.server.transport.http.inference.answer_plan import BINARY_SIZE, AnswerPlan
from hangtag.serving.server.transport.http.inference.request_head import InputHead, RequestHead, parse_head
from hangtag.serving.server.transport.http.responses import BINARY, JSON, HttpResponse, cost_headers
from hangtag.serving.signature import Signature, TensorSpec

HEAD_LENGTH = b"inference-header-content-length"
"""The header that says how many bytes of the body are JSON; binary tensors follow. 0: the body is one tensor."""

Arrays = dict[str, npt.NDArray[Any]]


class HttpInferQuery:
    """A request's body and headers. Decoding and decompressing happen in `prepare`."""

    __slots__ = (
        *("_body", "_encoding", "_head", "_headers", "_held", "_inputs"),
        *("id", "model_name", "model_version"),
    )

    def __init__(self, name: str, version: str, body: bytes, headers: Mapping[bytes, bytes], held: HeldBytes) -> None:
        """Keep what came; nothing is decoded yet.

        Args:
            name: The model's.
            version: Empty for the one that serves by default.
            body: As it was sent, possibly compressed.
            headers: The request's, by lower-case names.
            held: Takes the bytes of the decompressed body, and then those of the arrays in their place; its limit is
                the response's too.
        """
        self.model_name = name
        self.model_version = version
        self.id = ""
        """The request's, for the log; known once it is decoded."""
        self._body = body
        self._encoding = headers.get(b"content-encoding", b"")
        self._headers = headers
        self._held = held
        self._head: RequestHead | None = None
        self._inputs: Arrays | None = None

    def prepare(self, model: Servable, call: TransportCall) -> None:
        if self._inputs is None:  # the query may be prepared again, for a new version
            self._decode()
        head, inputs = self._head, self._inputs
        datatypes: Mapping[str, str]
        if head is None or inputs is None:
            spec, array = _raw_input(model.signature, self._body)
            inputs, datatypes = {spec.name: array}, {spec.name: spec.datatype}
            outputs = model.signature.outputs
            admission = model.check(inputs, datatypes)
            plan = AnswerPlan(model, outputs, [True] * len(outputs), admission)
        else:
            datatypes = head.datatypes
            known = head.plans.get(model.name)
            plan = known if known is not None and known.model is model else _plan(head, model, inputs, datatypes)
            if head.timeout is not None:
                call.deadline = codec.earlier_deadline(head.timeout, call.deadline)

        def encode(result: InferenceResult) -> HttpResponse:
            return self._respond(model, plan, result)

        call.inputs, call.encode, call.outputs = inputs, encode, plan.output_names
        call.samples, call.batch_key = plan.admission

    def _decode(self) -> None:
        """Read the head and the arrays, and let go of the body, which would wait in the queue with them. The body of a
        request without JSON stays, decompressed, because its shape depends on the model."""
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
            head = parse_head(body[:offset], cached=offset < len(body))
        self.id = head.id
        if offset + head.binary_bytes != len(body):
            raise InvalidRequestError(
                f"the body has {len(body) - offset} bytes after its JSON of {offset} bytes (the header "
                f"Inference-Header-Content-Length), and the inputs' parameters {BINARY_SIZE!r} add up to "
                f"{head.binary_bytes}"
            )
        inputs = _inputs(head.inputs, body, offset)
        self._held.exchange(sum(map(_memory, inputs.values())))
        self._inputs = inputs
        self._head = head.without_values()
        self._body = b""

    def _respond(self, model: Servable, plan: AnswerPlan, result: InferenceResult) -> HttpResponse:
        head, contents = plan.encode(result.outputs, self.id)
        body = b"".join((head, *contents))
        if len(body) > self._held.limit:
            raise MessageTooLargeError(f"SERVER: Sent message larger than max ({len(body)} vs. {self._held.limit})")
        headers = [*cost_headers(model.name, model.version, result.timings)]
        if plan.has_contents:
            headers.append((HEAD_LENGTH, str(len(head)).encode()))
        if accepted := self._headers.get(b"accept-encoding"):
            body, encoding = compress(body, response_encoding(accepted))
            if encoding:
                headers.append((b"content-encoding", encoding))
        return HttpResponse(body, BINARY if plan.has_contents else JSON, headers=headers)


def _plan(head: RequestHead, model: Servable, inputs: Arrays, datatypes: Mapping[str, str]) -> AnswerPlan:
    """Decide how requests with this head are answered, and keep it for the next one to the same model."""
    specs = codec.output_specs(head.outputs, model.signature)
    binary = head.binary_outputs or [head.binary_by_default] * len(specs)
    plan = AnswerPlan(model, specs, binary, model.check(inputs, datatypes))
    head.plans[model.name] = plan
    return plan


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
                arrays[head.name] = json_values.from_json(head.datatype, head.shape, head.data)
            else:
                array = tensors.from_raw(head.datatype, head.shape, body[offset : offset + head.binary_size])
                arrays[head.name] = codec.as_text(array) if head.datatype == "BYTES" else array
                offset += head.binary_size
        except ValueError as error:
            raise InvalidRequestError(f"input {head.name!r}: {error}") from error
    return arrays


def _memory(array: npt.NDArray[Any]) -> int:
    """Return the bytes that an array takes; a text has a header beside its characters."""
    return array.nbytes + (sum(map(sys.getsizeof, array.flat)) if array.dtype == np.object_ else 0)


def _raw_input(signature: Signature, body: bytes) -> tuple[TensorSpec, npt.NDArray[Any]]:
    """Return the one input of a request without JSON, whose shape follows from the number of bytes."""
    if len(signature.inputs) != 1:
        raise InvalidRequestError(
            f"a request without JSON has one tensor, and the model takes {len(signature.inputs)} inputs; describe them "
            "in JSON, with its length in the header Inference-Header-Content-Length"
        )
    (spec,) = signature.inputs
    try:
        shape = _shape_of(spec, len(body), batched=signature.batched)
        array = tensors.from_raw(spec.datatype, shape, body if spec.datatype != "BYTES" else _one_element(body))
        return spec, codec.as_text(array) if spec.datatype == "BYTES" else array
    except ValueError as error:
        raise InvalidRequestError(f"input {spec.name!r}: {error}") from error


def _shape_of(spec: TensorSpec, size: int, *, batched: bool) -> list[int]:
    """Return the shape of a tensor of so many bytes. Raises ValueError where the signature leaves it open."""
    free = [axis for axis, length in enumerate(spec.shape) if length is None]
    if batched and len(free) > 1:  # one sample, as Triton takes it
        free = free[1:]
    if len(free) > 1:
        raise ValueError(f"the model takes {spec}, so its shape does not follow from {size} bytes; describe it in JSON")
    shape = [1 if length is None else length for length in spec.shape]
    if free and spec.datatype != "BYTES":
        one = tensors.DTYPES[spec.datatype].itemsize
        for length in shape:
            one *= length
        shape[free[0]] = size // one if one else 0
    return shape


def _one_element(body: bytes) -> bytes:
    return len(body).to_bytes(4, "little") + body
