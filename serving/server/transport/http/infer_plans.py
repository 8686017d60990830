"""Inference over HTTP, from a complete request to the response on its connection.

A request has a plan if an earlier request had the same target and JSON, and one tensor follows the JSON as bytes. A
request with a plan is queued at once, and one loop answers the calls of a batch.
"""

import math
import re
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from hangtag.serving.server.engine.servable import Admission, Servable
from hangtag.serving.server.queue.call import Call, Tensors
from hangtag.serving.server.telemetry.model_statistics import BatchCost, Timings
from hangtag.serving.server.transport.http.bodies import COMPRESS_FROM
from hangtag.serving.server.transport.http.infer_json import RequestHead, encode_answer
from hangtag.serving.server.transport.http.messages import (
    BINARY,
    HTTP_INFER,
    HttpRequest,
    HttpResponse,
    answered_by,
    cost_headers,
    error_response,
    request_metadata,
    written,
)
from hangtag.serving.server.wire.event_loop import LoopCalls
from hangtag.serving.server.wire.plans import BY_VALUE, Plan, PlannedCall, PlansByHead
from hangtag.serving.server.wire.status import BATCH_SIZE, COMPUTE_NS, QUEUE_NS, member_metadata
from hangtag.serving.server.wire.tracing import Metadata
from hangtag.serving.signature import TensorSpec

HEAD_LENGTH = b"inference-header-content-length"
"""The header with the length of the body's JSON in bytes. Binary tensors follow the JSON. If the length is 0, the body
is one tensor."""
_LENGTH = re.compile(rb"[0-9]{1,3}")  # the length in a head that is kept
_MAX_HEAD = 1024

Learn = Callable[[RequestHead, Servable, Sequence[TensorSpec], Admission], None]
"""A function that gets a request, the model that admitted it, the requested outputs, and the result of the model's
check."""
Done = Callable[[HttpRequest, HttpResponse | bytes], None]
"""A function that gets a request and its response. A response in bytes has status 200, and starts with the headers."""
_COST = f"{QUEUE_NS}: %d\r\n{COMPUTE_NS}: %d\r\n{BATCH_SIZE}: %d\r\n".encode()
_TIMES = b"server-timing: queue;dur=%.3f, compute;dur=%.3f\r\n"


class HttpPlan(Plan):
    """A plan whose responses start with the headers that all responses share, and an empty line."""

    def _heads_of(self, outputs: Tensors) -> list[bytes]:
        head, contents = encode_answer(self.model, self.specs, [True] * len(self.specs), outputs)
        length = len(head) + sum(map(len, contents))
        headers = (b"content-type", BINARY), (b"content-length", b"%d" % length), (HEAD_LENGTH, b"%d" % len(head))
        return [written(headers) + b"\r\n" + head, *[b""] * (len(contents) - 1)]

    @cached_property
    def is_small(self) -> bool:
        """Whether every response is certain to be too small to be compressed."""
        sizes = [[self.samples, *spec.shape[1:]] if spec.shape else [] for spec in self.specs]
        values = sum(math.prod(size or _MAX_HEAD for size in shape) for shape in sizes)
        return values * 8 + _MAX_HEAD // 2 < COMPRESS_FROM


class HttpPlans(PlansByHead[tuple[bytes, bytes], HttpPlan]):
    """The plans known so far, by target and JSON. Thread-safe."""

    def of(self, request: HttpRequest) -> HttpPlan | None:
        """Return the plan of a complete request. Requests with compression, in either direction, have no plan."""
        headers, body = request.headers, request.body
        length = headers.get(HEAD_LENGTH, b"")
        if not _LENGTH.fullmatch(length) or request.method != "POST" or b"content-encoding" in headers:
            return None
        size = int(length)
        plan = self._plans.get(((request.target, bytes(body[:size])), len(body) - size))
        return plan if plan is None or plan.is_small or b"accept-encoding" not in headers else None

    def learner(self, request: HttpRequest) -> Learn | None:
        """Return a function that keeps a plan of the request after every check has passed, or None if no plan is
        possible.

        Call this method before the model is looked up, so that a plan for a model replaced in the meantime is never
        valid.
        """
        length = request.headers.get(HEAD_LENGTH, b"")
        if not _LENGTH.fullmatch(length) or b"content-encoding" in request.headers:
            return None
        epoch, target, head = self._engine.epoch, request.target, bytes(request.body[: int(length)])

        def learn(asked: RequestHead, model: Servable, specs: Sequence[TensorSpec], admission: Admission) -> None:
            binary = asked.binary_outputs or [asked.binary_by_default]
            has_fixed_meaning = (
                len(asked.inputs) == 1
                and bool(asked.inputs[0].binary_size)
                and asked.inputs[0].datatype in BY_VALUE
                and not asked.id
                and asked.timeout is None
                and all(binary)
                and all(spec.datatype in BY_VALUE | {"BOOL"} for spec in specs)
            )
            if has_fixed_meaning:
                tensor = asked.inputs[0]
                described = (tensor.name, tensor.datatype, tensor.shape)
                plan = HttpPlan(model, (model.name, model.version), described, specs, admission, epoch)
                self.keep((target, head), plan)

        return learn


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
        """Answer each call with its rows. One loop answers all calls with plans, so each output becomes bytes once."""
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
                    headers = answered_by(plan.model.name, plan.model.version)
                    answered = written(headers[1:] if cost.member else headers)
            if not parts:
                call.end(call.part_of(outputs, cost))
                continue
            row, end, queue_ns = call.row, call.row + call.samples, call.queue_ns
            spent = _COST % (queue_ns, compute_ns, cost.batch_size) + _TIMES % (queue_ns / 1e6, compute_ns / 1e6)
            pieces = [answered, spent]
            if cost.member:
                members = member_metadata(cost, call.samples, queue_ns)
                pieces.append(written((name.encode(), value.encode()) for name, value in members))
            for head, raw, size in parts:
                pieces += head, raw[row * size : end * size]
            call._hand_over(b"".join(pieces))
