"""Inference over HTTP: from the bytes of a body to the response on its connection.

A request has a plan if an earlier request had the same target and JSON, and one tensor follows the JSON as bytes. A
request with a plan is queued at once, and one loop answers the calls of a batch.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from hangtag.protos import tensors
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import InvalidRequestError
from hangtag.serving.server.queue.call import Call, InferenceResult, Tensors, memory_of
from hangtag.serving.server.telemetry.model_statistics import BatchCost, Timings
from hangtag.serving.server.transport.http.bodies import COMPRESS_FROM, compress, decompress
from hangtag.serving.server.transport.http.infer_json import decode_request, encode_answer
from hangtag.serving.server.transport.http.messages import (
    BINARY,
    HTTP_INFER,
    JSON,
    HttpRequest,
    HttpResponse,
    answered_by,
    cost_headers,
    error_response,
    request_metadata,
    written,
)
from hangtag.serving.server.wire import codec
from hangtag.serving.server.wire.event_loop import LoopCalls
from hangtag.serving.server.wire.intake import Intake
from hangtag.serving.server.wire.plans import Decoded, HeadsOf, InferQuery, Plan, PlannedCall, Plans
from hangtag.serving.server.wire.status import BATCH_SIZE, COMPUTE_NS, QUEUE_NS
from hangtag.serving.server.wire.tracing import Metadata
from hangtag.serving.signature import Signature, TensorSpec

HEAD_LENGTH = b"inference-header-content-length"
"""The header with the length of the body's JSON in bytes. Binary tensors follow the JSON. If the length is 0, the body
is one tensor."""
_LENGTH = re.compile(rb"[0-9]{1,3}")  # the length of a JSON that a plan may keep
_MAX_HEAD = 512  # bytes of JSON in a planned response that may be too small to be compressed

Done = Callable[[HttpRequest, HttpResponse | bytes], None]
"""A function that gets a request and its response. A response in bytes has status 200, and starts with the headers."""
_COST = f"{QUEUE_NS}: %d\r\n{COMPUTE_NS}: %d\r\n{BATCH_SIZE}: %d\r\n".encode()
_TIMES = b"server-timing: queue;dur=%.3f, compute;dur=%.3f\r\n"


class HttpPlans(Plans):
    """The plans known so far, by target and JSON. Thread-safe. A plan's responses start with the headers that all
    responses share, and an empty line."""

    def of(self, request: HttpRequest) -> Plan | None:
        """Return the plan of a complete request. Requests with compression, in either direction, have no plan."""
        headers, body = request.headers, request.body
        length = headers.get(HEAD_LENGTH, b"")
        if not _LENGTH.fullmatch(length) or request.method != "POST" or b"content-encoding" in headers:
            return None
        size = int(length)
        plan = self._plans.get(((request.target, bytes(body[:size])), len(body) - size))
        if plan is None or b"accept-encoding" not in headers or plan.max_bytes + _MAX_HEAD < COMPRESS_FROM:
            return plan
        return None


class HttpCall(PlannedCall):
    """An inference call for which no coroutine waits."""

    def __init__(self, calls: LoopCalls, request: HttpRequest, done: Done) -> None:
        """Describe a call that is not decoded yet.

        Args:
            calls: The calls of the event loop.
            request: A complete request.
            done: The function that gets the response, on the event loop.
        """
        self.intake = calls.intake
        self.method = HTTP_INFER
        self.started = time.perf_counter_ns()
        self._calls = calls
        self._request = request
        self._done = done
        self._response: HttpResponse | bytes = b""

    @property
    def metadata(self) -> Metadata:  # type: ignore[override]  # most calls are answered without their metadata
        return request_metadata(self._request)

    def respond(self, response: Any, timings: Timings) -> None:
        if isinstance(response, bytes):
            assert self.plan is not None
            model = self.plan.model
            response = written(cost_headers(model.name, model.version, timings)) + response
        self._hand_over(response)

    def refuse(self, error: Exception) -> None:
        self._hand_over(error_response(error, HTTP_INFER, self))

    def resolve(self) -> None:
        """Let the connection write the response. This method runs on the event loop."""
        self._done(self._request, self._response)

    def _hand_over(self, response: HttpResponse | bytes) -> None:
        self._response = response
        self._calls.hand_over(self)

    @classmethod
    def answer_batch(cls, calls: Sequence[Call], outputs: Tensors, cost: BatchCost) -> None:
        """Answer each call with its rows. The calls with plans share one conversion of each output to bytes."""
        plan: Plan | None = None
        parts: list[tuple[bytes, bytes, int]] = []
        answered = b""
        compute_ns = cost.compute_ns
        for call in calls:
            assert isinstance(call, HttpCall)
            if call.plan is not plan:
                plan = call.plan
                parts = call.parts(outputs, cost)
                if plan is not None:
                    answered = written(answered_by(plan.model.name, plan.model.version))
            if not parts:
                call.end(call.part_of(outputs, cost))
                continue
            row, end, queue_ns = call.row, call.row + call.samples, call.queue_ns
            spent = _COST % (queue_ns, compute_ns, cost.batch_size) + _TIMES % (queue_ns / 1e6, compute_ns / 1e6)
            pieces = [answered, spent]
            if cost.member:
                assert plan is not None
                pieces = [written(cost_headers(plan.model.name, plan.model.version, call.timings_of(cost)))]
            for head, raw, size in parts:
                pieces += head, raw[row * size : end * size]
            call._hand_over(b"".join(pieces))


class HttpInferQuery(InferQuery):
    """A request's body and headers. Decoding and decompressing happen in `prepare`."""

    def __init__(self, name: str, version: str, request: HttpRequest, plans: Plans | None = None) -> None:
        """Keep the body and the headers. Decode nothing yet.

        Args:
            name: The model's name.
            version: The version; empty for the version that serves by default.
            request: The request, with a body that may be compressed. The query removes the body from the request. The
                request's held bytes count the body as sent, later the decompressed body, and finally the arrays.
            plans: Keep a plan of the request; None to keep no plan.
        """
        super().__init__(name, version, plans)
        self._body = request.take_body()
        self._target = request.target
        self._headers: Mapping[bytes, bytes] = request.headers
        self._encoding = self._headers.get(b"content-encoding", b"")
        self._held = request.held
        self._decoded: Decoded | None = None
        self._binary: Sequence[bool] = ()  # for each output that the request names
        self._binary_by_default = True

    def decode(self, signature: Signature) -> Decoded:
        if self._decoded is None:  # the query may be prepared again, for a new version
            self._read()
        if self._decoded is not None:
            return self._decoded
        spec, array = _raw_input(signature, self._body)
        return Decoded({spec.name: array}, {spec.name: spec.datatype})

    def encoder(
        self, model: Servable, specs: Sequence[TensorSpec], intake: Intake
    ) -> Callable[[InferenceResult], HttpResponse]:
        accepted, binary = self._headers.get(b"accept-encoding"), self._binary or [self._binary_by_default] * len(specs)
        identity = "" if self._decoded is None else self._decoded.id

        def encode(result: InferenceResult) -> HttpResponse:
            head, contents = encode_answer(model, specs, binary, result.outputs, identity)
            body = b"".join((head, *contents))
            intake.require_size("Sent", len(body))
            headers = [*cost_headers(model.name, model.version, result.timings)]
            if contents:
                headers.append((HEAD_LENGTH, str(len(head)).encode()))
            if accepted:
                body, encoding = compress(body, accepted)
                if encoding:
                    headers.append((b"content-encoding", encoding))
            return HttpResponse(body, BINARY if contents else JSON, headers=headers)

        return encode

    def heads_of(self, model: Servable, specs: Sequence[TensorSpec]) -> HeadsOf:
        def heads(outputs: Tensors) -> list[bytes]:
            head, contents = encode_answer(model, specs, [True] * len(specs), outputs)
            length = len(head) + sum(map(len, contents))
            headers = (b"content-type", BINARY), (b"content-length", b"%d" % length), (HEAD_LENGTH, b"%d" % len(head))
            return [written(headers) + b"\r\n" + head, *[b""] * (len(contents) - 1)]

        return heads

    def _read(self) -> None:
        """Read the JSON and the arrays, and drop the body, which would otherwise wait in the queue with the arrays. The
        decompressed body of a request without JSON is kept, because the tensor's shape depends on the model."""
        self._body = body = decompress(self._body, self._encoding, self._held)
        self._encoding = b""
        length = self._headers.get(HEAD_LENGTH)
        size = len(body) if length is None else _head_length(length, body)
        if length is not None and size == 0:
            return
        decoded, self._binary, self._binary_by_default = decode_request(body, size)
        self._held.hold(sum(map(memory_of, decoded.inputs.values())))
        may_have_plan = decoded.head is not None and length is not None and _LENGTH.fullmatch(length)
        self._decoded = decoded._replace(head=(self._target, decoded.head) if may_have_plan else None)
        self._body = b""


def _head_length(value: bytes, body: bytes) -> int:
    length = int(value) if value.isdigit() and len(value) < 20 else -1
    if not 0 <= length <= len(body):
        raise InvalidRequestError(
            f"the header Inference-Header-Content-Length is {value.decode('latin-1')[:32]!r}; it must be the length of "
            f"the JSON, at most the body's {len(body)} bytes"
        )
    return length


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
    """Return the shape of a tensor of this many bytes. Raises ValueError if the signature and the number of bytes do
    not determine the shape."""
    free = [axis for axis, length in enumerate(spec.shape) if length is None]
    if batched and len(free) > 1:  # as in Triton, the batch has one sample
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
