"""Recognises requests that differ only in their tensor's bytes, so that only the first of them is parsed and checked.

A client sends the same kind of request again and again: the same model, input, datatype and shape, then 784 different
bytes. Such requests have the same *head*: the bytes before the tensor. A *plan* keeps the result of parsing and
checking one head. For the next message with that head, the plan gives the inputs without parsing, and builds the
response from parts that were serialized once. A plan and the codec build exactly the same response.

A request gets a plan only if the head determines the request's meaning: the message has one input of a fixed-size
datatype, as raw contents at its very end, and no id or parameters. A plan is valid until the models that serve change.
Each transport defines the head: ``codec`` for messages of gRPC, and ``inference`` for HTTP.
"""

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import structlog

from hangtag.protos import tensors
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import InvalidRequestError, ServerError, UnavailableError
from hangtag.serving.server.queue.call import Call, InferenceResult, Tensors
from hangtag.serving.server.telemetry.model_statistics import BatchCost
from hangtag.serving.server.wire.transport_call import LARGE_MESSAGE, TransportCall
from hangtag.serving.signature import TensorSpec

log = structlog.get_logger()

MAX_PLANS = 256
BY_VALUE = frozenset(tensors.DTYPES) - {"BOOL", "BYTES"}  # datatypes whose arrays are the raw bytes themselves
TIMEOUT = "timeout"  # Triton's parameter of a request: a time limit in microseconds after it is read

Arrays = dict[str, npt.NDArray[Any]]
Shapes: TypeAlias = tuple[tuple[int, ...], ...]
"""The shapes of a response's outputs."""
HeadsOf: TypeAlias = Callable[[Tensors], list[bytes]]
"""Returns, for each of a response's outputs, the bytes that precede the output's raw bytes. Only the shapes of the
outputs determine the result. The function must not keep a request in memory."""


class PlannedCall(TransportCall):
    """A call whose request may have a plan."""

    plan: "Plan | None" = None
    """The request's plan; None if the request has no plan."""

    @classmethod
    def send(cls, calls: "Sequence[Self]", responses: Sequence[bytes], cost: BatchCost) -> None:
        """Send the responses to calls that share a plan and were computed in one batch."""
        for call, response in zip(calls, responses, strict=True):
            call.respond(response, call.timings_of(cost))

    @classmethod
    def answer_batch(cls, calls: Sequence[Call], outputs: Tensors, cost: BatchCost) -> None:
        by_plan: defaultdict[Plan | None, list[Any]] = defaultdict(list)
        for call in calls:
            assert isinstance(call, cls)
            by_plan[call.plan].append(call)
        for plan, of_plan in by_plan.items():
            responses = None if plan is None else plan.responses(of_plan, outputs, cost)
            if responses is None:
                for call in of_plan:
                    call.end(call.part_of(outputs, cost))
            else:
                cls.send(of_plan, responses, cost)


class Plan:
    """The result of parsing and checking the first request that has a certain head, for one version of a model."""

    def __init__(self, call: TransportCall, model: Servable, specs: Sequence[TensorSpec], heads_of: HeadsOf) -> None:
        """Take the results from a call that has one input and that the model has admitted. ``specs`` are the requested
        outputs."""
        self.model_name, self.model_version, self.epoch = call.model_name, call.model_version, call.epoch
        self.model = model
        self.samples, self.batch_key = call.samples, call.batch_key
        ((self.input, array),) = call.inputs.items()
        self.dtype, self.shape, self.contents_size = array.dtype, array.shape, array.nbytes
        self.output_names = [spec.name for spec in specs]
        self._heads: dict[Shapes, list[bytes]] = {}  # the results of heads_of so far
        self._dtypes = [tensors.DTYPES[spec.datatype] for spec in specs]
        self._heads_of = heads_of
        shapes = [(self.samples, *spec.shape[1:]) if model.signature.batched else spec.shape for spec in specs]
        self.max_bytes = sum(8 * math.prod(math.inf if size is None else size for size in shape) for shape in shapes)
        """The largest size in bytes of the outputs of a response."""

    def put(self, call: PlannedCall, message: bytes) -> bool:
        """Set the attributes that `Query.prepare` would set, and queue the call. The last bytes of ``message`` become
        the only input's array, without a copy. Return whether the call was queued or has ended; if the models that
        serve have changed, the result is False, and the caller must submit the call."""
        if self.epoch != call.intake.engine.epoch:
            return False
        call.plan = self
        call.inputs = {self.input: np.ndarray(self.shape, self.dtype, message, len(message) - self.contents_size)}
        call.samples = self.samples
        call.batch_key = self.batch_key
        call.model_name = self.model_name
        call.model_version = self.model_version
        call.outputs = self.output_names
        call.encode = self.encode
        try:
            self.model.put(call)
        except UnavailableError:
            call.plan = None
            return False
        except ServerError as error:
            call.fail(error)
        return True

    def encode(self, result: InferenceResult) -> bytes:
        """Return the serialized response."""
        arrays = [result.outputs[name] for name in self.output_names]
        shapes = tuple([array.shape for array in arrays])
        heads = self._heads.get(shapes) or self._make_heads(shapes)
        return b"".join([head + array.tobytes() for head, array in zip(heads, arrays, strict=True)])

    def responses(self, calls: Sequence[PlannedCall], outputs: Tensors, cost: BatchCost) -> list[bytes] | None:
        """Return the serialized responses to calls of one batch, which share one conversion of each output to bytes.

        The result is None if each response must be built separately: tracing records a span for each response, and
        large responses are encoded on a thread.
        """
        if calls[0].intake.tracing is not None:
            return None
        alone = cost.calls == 1  # the only call of a batch gets all rows
        shapes, large = [], 0
        parts: list[tuple[bytes, bytes, int]] = []  # for each output: head, all rows, bytes per sample
        responses: list[bytes] = []
        try:
            for name in self.output_names:
                array = outputs[name]
                shapes.append(array.shape if alone else (self.samples, *array.shape[1:]))
                large += array.nbytes if alone else array.nbytes // cost.batch_size * self.samples
            if large >= LARGE_MESSAGE:
                return None
            kind = tuple(shapes)
            heads = self._heads.get(kind) or self._make_heads(kind)
            for name, head in zip(self.output_names, heads, strict=True):
                raw = outputs[name].tobytes()
                parts.append((head, raw, len(raw) if alone else len(raw) // cost.batch_size))
            for call in calls:
                row, end = call.row, call.row + call.samples
                pieces: list[bytes] = []
                for head, raw, size in parts:
                    pieces += head, raw[row * size : end * size]
                responses.append(b"".join(pieces))
        except Exception:  # each call then raises and reports the error itself
            log.exception("the responses of a batch could not be built together")
            return None
        return responses

    def _make_heads(self, shapes: Shapes) -> list[bytes]:
        """Compute and keep the heads of a response whose outputs have these shapes."""
        if len(self._heads) >= MAX_PLANS:
            self._heads.clear()
        zeros = zip(self.output_names, map(np.zeros, shapes, self._dtypes), strict=True)
        heads = self._heads[shapes] = self._heads_of(dict(zeros))
        return heads


class Plans:
    """The plans of one transport, by head. Before using a plan, check the size of the contents: a malformed message may
    have a known head, but contents of the wrong size. Thread-safe."""

    def __init__(self) -> None:
        self._keeping = threading.Lock()
        self._plans: dict[Hashable, Plan] = {}

    def keep(self, head: Hashable, plan: Plan) -> None:
        """Keep a plan, and drop the plans of models that no longer serve."""
        with self._keeping:
            for stale in [other for other, known in self._plans.items() if known.epoch != plan.epoch]:
                del self._plans[stale]
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            self._plans[head] = plan


def admit(
    call: TransportCall,
    model: Servable,
    inputs: Arrays,
    datatypes: Mapping[str, str],
    outputs: Sequence[str] = (),
    timeout: int | None = None,
) -> Sequence[TensorSpec]:
    """Check a decoded request for inference, set the call's inputs, samples, batch key, outputs and deadline, and
    return the requested outputs. Raises InvalidRequestError if the request does not match the model.

    ``datatypes`` has the protocol's datatype of each input. ``outputs`` names the requested outputs, in order, and is
    empty for all of the model's outputs. ``timeout`` is the request's own time limit in microseconds.
    """
    if len(set(outputs)) < len(outputs):  # a small request could ask for a huge answer
        raise InvalidRequestError("an output is requested twice; name each output once")
    specs = [] if outputs else model.signature.outputs
    for name in outputs:
        if (spec := model.signature.output(name)) is None:
            known = "; ".join(map(str, model.signature.outputs))
            raise InvalidRequestError(f"unknown output {name!r}; the model gives {known}")
        specs = [*specs, spec]
    if timeout is not None:  # a stream has one deadline, but each of its requests may have a timeout
        call.deadline = earlier_deadline(timeout, call.deadline)
    call.samples, call.batch_key = model.check(inputs, datatypes)
    call.inputs, call.outputs = inputs, [spec.name for spec in specs]
    return specs


def earlier_deadline(microseconds: int, deadline: float | None) -> float:
    """Return the earlier of ``deadline`` and now plus ``microseconds``, which must be above 0 (InvalidRequestError)."""
    if microseconds <= 0:
        raise InvalidRequestError(
            f"the parameter {TIMEOUT!r} must be an int64 of microseconds above 0, not {microseconds}"
        )
    own = time.monotonic() + microseconds / 1e6
    return own if deadline is None else min(own, deadline)
