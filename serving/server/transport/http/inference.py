"""Inference over HTTP: decodes the bodies of requests, and encodes the responses. Requests that differ only in the
binary data of their one tensor can share a `Plan`; then only the first of them is decoded."""

import math
import re
from collections.abc import Sequence
from functools import partial

from hangtag.protos import tensors
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import InvalidRequestError
from hangtag.serving.server.queue.call import InferenceResult, Tensors, memory_of
from hangtag.serving.server.transport.http.bodies import COMPRESS_FROM, compress, decompress
from hangtag.serving.server.transport.http.infer_json import JsonRequest, decode_request, encode_answer
from hangtag.serving.server.transport.http.messages import BINARY, JSON, HttpRequest, HttpResponse, cost_headers
from hangtag.serving.server.wire import codec
from hangtag.serving.server.wire.plans import Plan, Plans, admit
from hangtag.serving.server.wire.transport_call import Query, TransportCall
from hangtag.serving.signature import Signature, TensorSpec

HEAD_LENGTH = b"inference-header-content-length"
"""The header with the length of the body's JSON in bytes. Binary tensors follow the JSON. If the length is 0, the body
is one tensor."""
_LENGTH = re.compile(rb"[0-9]{1,3}")  # at most 999 bytes, because each plan keeps its JSON
_MAX_HEAD = 512  # the assumed maximum size of the JSON in a response with a plan, in bytes
_HEAD = b"%b %b"
"""The key of a plan in `Plans.by_head`: the request's target, and the JSON of its body."""


def find_plan(plans: Plans, request: HttpRequest) -> Plan | None:
    """Return the plan of a complete request. Calls with a compressed request or answer have no plan."""
    headers, body = request.headers, request.body
    length = headers.get(HEAD_LENGTH, b"")
    if not _LENGTH.fullmatch(length) or request.verb != "POST" or b"content-encoding" in headers:
        return None
    size = int(length)
    plan = plans.by_head.get(_HEAD % (request.target, body[:size]))
    if plan is None or len(body) - size != plan.contents_size:
        return None
    is_compressed = b"accept-encoding" in headers and plan.max_bytes + _MAX_HEAD >= COMPRESS_FROM
    return None if is_compressed else plan


class HttpInferQuery(Query):
    """A request for inference. `prepare` removes the body from the request. The memory budget counts first the body as
    sent, then the decompressed body, and finally the arrays. If possible, ``plans`` gets a plan of the request."""

    def __init__(self, name: str, version: str, request: HttpRequest, plans: Plans | None = None) -> None:
        super().__init__(name, version)
        self._request = request
        self._plans = plans
        self._body: bytes | None = None  # the decompressed body; empty once it is decoded
        self._json: JsonRequest | None = None

    def prepare(self, model: Servable, call: TransportCall) -> None:
        headers, length = self._request.headers, self._request.headers.get(HEAD_LENGTH)
        if self._body is None:  # otherwise the query is prepared again, for a new version
            body = self._body = decompress(self._request)
            # The body of a request without JSON is kept, because the tensor's shape depends on the model.
            size = len(body)
            if length is not None:
                size = int(length) if length.isdigit() and len(length) < 20 else -1
                if not 0 <= size <= len(body):
                    raise InvalidRequestError(
                        f"the header Inference-Header-Content-Length is {length.decode('latin-1')[:32]!r}; it must be "
                        f"the length of the JSON, at most the body's {len(body)} bytes"
                    )
            if length is None or size > 0:
                self._json = decode_request(body, size)
                self._request.budget.hold(self._request, sum(map(memory_of, self._json.inputs.values())))
                self._body = b""
        json = self._json or _raw_request(model.signature, self._body)
        specs = admit(call, model, *json[:4])
        identity = call.id = json.id
        binary = json.binary if len(json.binary) == len(specs) else [*json.binary] * len(specs)
        accepted, intake = headers.get(b"accept-encoding", b""), call.intake

        def answer(result: InferenceResult) -> HttpResponse:
            head, contents = encode_answer(model, specs, binary, result.outputs, identity)
            answered = b"".join((head, *contents))
            intake.require_size("Sent", len(answered))
            more = cost_headers(model.name, model.version, result.timings)
            if contents:
                more += b"%b: %d\r\n" % (HEAD_LENGTH, len(head))
            answered, encoding = compress(answered, accepted)
            if encoding:
                more += b"content-encoding: %b\r\n" % encoding
            return HttpResponse(answered, BINARY if contents else JSON, headers=more)

        call.encode = answer
        if json.head is None or any(spec.datatype == "BYTES" for spec in specs):
            return
        if self._plans is not None and _LENGTH.fullmatch(length or b""):
            head = _HEAD % (self._request.target, json.head)
            self._plans.keep(head, Plan(call, model, specs, partial(_heads, model, specs)))


def _heads(model: Servable, specs: Sequence[TensorSpec], outputs: Tensors) -> list[bytes]:
    """Return the bytes before each output of a plan's response; before the first: headers, an empty line, the JSON."""
    head, contents = encode_answer(model, specs, [True] * len(specs), outputs)
    response = HttpResponse(b"".join((head, *contents)), BINARY, headers=b"%b: %d\r\n" % (HEAD_LENGTH, len(head)))
    return [response.headers + b"\r\n" + head, *[b""] * (len(contents) - 1)]


def _raw_request(signature: Signature, body: bytes) -> JsonRequest:
    """Return the content of a request whose body is one tensor, without JSON."""
    if len(signature.inputs) != 1:
        raise InvalidRequestError(
            f"a request without JSON has one tensor, but the model takes {len(signature.inputs)} inputs; describe the "
            "inputs in JSON, and send the length of the JSON in the header Inference-Header-Content-Length"
        )
    (spec,) = signature.inputs
    try:
        shape = _shape_of(spec, len(body), batched=signature.batched)
        if spec.datatype == "BYTES":  # the body is a single element, but lacks the length prefix
            array = codec.as_text(tensors.from_raw("BYTES", shape, len(body).to_bytes(4, "little") + body))
        else:
            array = tensors.from_raw(spec.datatype, shape, body)
    except ValueError as error:
        raise InvalidRequestError(f"input {spec.name!r}: {error}") from error
    return JsonRequest({spec.name: array}, {spec.name: spec.datatype}, (), None, [True], "", None)


def _shape_of(spec: TensorSpec, size: int, *, batched: bool) -> list[int]:
    """Return the shape of a tensor of this many bytes. Raises ValueError if several shapes are possible."""
    free = [axis for axis, length in enumerate(spec.shape) if length is None]
    if batched and len(free) > 1:  # as in Triton, the batch has one sample
        free = free[1:]
    if len(free) > 1:
        raise ValueError(
            f"the model takes {spec}, whose shape does not follow from {size} bytes; describe the input in JSON"
        )
    shape = [1 if length is None else length for length in spec.shape]
    if free and spec.datatype != "BYTES":
        one = tensors.DTYPES[spec.datatype].itemsize * math.prod(shape)
        shape[free[0]] = size // one if one else 0
    return shape
