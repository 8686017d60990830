"""Recognises requests that differ only in their tensor's bytes, so that only the first of them is parsed and checked.

A client sends the same kind of request again and again: the same model, input, datatype and shape, then 784 different
bytes. Such requests have the same *head*: the bytes before the tensor. A *plan* keeps the result of parsing and
checking one head. For a later message with the same head, the plan reads the inputs without parsing the message, and
inserts the outputs into a response whose other parts were serialized once. The codec would build the same bytes.

A request gets a plan only if the head determines the request's meaning: the message has one input of a fixed-size
datatype, as raw contents at its very end, and no id or parameters. A plan is valid until the served models change.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import structlog

from hangtag.protos import tensors
from hangtag.serving.server.engine.servable import Servable
from hangtag.serving.server.errors import InvalidRequestError, ServerError, UnavailableError
from hangtag.serving.server.queue.call import InferenceResult, Tensors
from hangtag.serving.server.telemetry.model_statistics import BatchCost
from hangtag.serving.server.wire.transport_call import LARGE_MESSAGE, TransportCall
from hangtag.serving.signature import TensorSpec

log = structlog.get_logger()

MAX_PLANS = 256
BY_VALUE = frozenset(tensors.DTYPES) - {"BOOL", "BYTES"}  # datatypes whose raw bytes need no conversion
TIMEOUT = "timeout"  # Triton's parameter: the microseconds that a request may take after it is read

Arrays = dict[str, npt.NDArray[Any]]
Shapes: TypeAlias = tuple[tuple[int, ...], ...]  # of a response's outputs
MakeHeads: TypeAlias = Callable[[Tensors], list[bytes]]
"""Returns, for each of a response's outputs, the bytes that precede its raw bytes. Only the shapes of the outputs
determine these bytes. The function must not keep a request in memory."""


class Plan:
    """The result of parsing and checking the first request that has a certain head, for one version of a model."""

    def __init__(self, call: TransportCall, model: Servable, specs: Sequence[TensorSpec], make: MakeHeads) -> None:
        """Copy the parsed and checked values of an admitted, one-input call. ``specs`` are the requested outputs."""
        self.model_name, self.model_version, self.epoch = call.model_name, call.model_version, call.epoch
        self.model = model
        self.samples, self.batch_key = call.samples, call.batch_key
        ((self.input, array),) = call.inputs.items()
        self.dtype, self.shape, self.contents_size = array.dtype, array.shape, array.nbytes
        self.output_names = [spec.name for spec in specs]
        self._heads: dict[Shapes, list[bytes]] = {}  # the results of _make_heads so far
        self._dtypes = [tensors.DTYPES[spec.datatype] for spec in specs]
        self._make_heads = make
        shapes = [(self.samples, *spec.shape[1:]) if model.signature.batched else spec.shape for spec in specs]
        # the largest size of the outputs of a response
        self.max_bytes = sum(8 * math.prod(math.inf if size is None else size for size in shape) for shape in shapes)

    def put(self, call: TransportCall, message: bytes) -> bool:
        """Do what `Query.prepare` would do, and queue the call. The last bytes of ``message`` become the only input's
        array. Return False if the served models have changed; the caller must then `submit` the call."""
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
        arrays = [result.outputs[name] for name in self.output_names]
        heads = self._heads_of(tuple([array.shape for array in arrays]))
        return b"".join([head + array.tobytes() for head, array in zip(heads, arrays, strict=True)])

    def responses(self, calls: Sequence[TransportCall], outputs: Tensors, cost: BatchCost) -> list[bytes] | None:
        """Return the serialized responses to calls of one batch. Return None if each response must be built separately:
        tracing records a span for each call, and large responses are encoded on separate threads."""
        if calls[0].intake.tracing is not None:
            return None
        alone = cost.calls == 1  # a batch of one call need not be split into rows
        rows, own = (1, 1) if alone else (cost.batch_size, self.samples)
        shapes, size = [], 0
        parts: list[tuple[bytes, bytes, int]] = []  # for each output: head, all rows, bytes per row
        responses: list[bytes] = []
        try:
            for name in self.output_names:
                array = outputs[name]
                shapes.append(array.shape if alone else (own, *array.shape[1:]))
                size += array.nbytes
            if size // rows * own >= LARGE_MESSAGE:
                return None
            heads = self._heads.get(tuple(shapes)) or self._heads_of(tuple(shapes))
            for name, head in zip(self.output_names, heads, strict=True):
                raw = outputs[name].tobytes()
                parts.append((head, raw, len(raw) // rows))
            for call in calls:
                row, end = call.row, call.row + own
                pieces: list[bytes] = []
                for head, raw, size in parts:
                    pieces += head, raw[row * size : end * size]
                responses.append(b"".join(pieces))
        except Exception:  # each call then raises and reports the error itself
            log.exception("the responses of a batch could not be built together")
            return None
        return responses

    def _heads_of(self, shapes: Shapes) -> list[bytes]:
        """Return the heads of a response whose outputs have these shapes, and keep them for later responses."""
        if (heads := self._heads.get(shapes)) is None:
            if len(self._heads) >= MAX_PLANS:
                self._heads.clear()
            zeros = zip(self.output_names, map(np.zeros, shapes, self._dtypes), strict=True)
            heads = self._heads[shapes] = self._make_heads(dict(zeros))
        return heads


class Plans:
    """Maps the head of a request to its plan, for one transport. Thread-safe."""

    def __init__(self) -> None:
        self._keeping = threading.Lock()
        self.by_head: dict[bytes, Plan] = {}
        """The plans. Before using a plan, compare the size of the message's contents with ``contents_size``, because a
        malformed message may begin with the head of a valid message."""
        self._contents_sizes: dict[int, int] = {}  # size of head and contents -> size of the contents

    def find(self, message: bytes) -> Plan | None:
        """Return the plan for a message, or None if there is no plan. The message is a head, then the contents."""
        size = self._contents_sizes.get(len(message))
        plan = None if size is None else self.by_head.get(message[:-size])
        return plan if plan is not None and plan.contents_size == size else None

    def keep(self, head: bytes, plan: Plan) -> None:
        """Keep a plan, and drop the plans of models that are no longer served."""
        with self._keeping:
            for stale in [other for other, known in self.by_head.items() if known.epoch != plan.epoch]:
                del self.by_head[stale]
            if len(self.by_head) >= MAX_PLANS:
                self.by_head.clear()
            if len(self._contents_sizes) >= MAX_PLANS:
                self._contents_sizes.clear()
            self.by_head[head] = plan
            self._contents_sizes[len(head) + plan.contents_size] = plan.contents_size


def admit(
    call: TransportCall,
    model: Servable,
    inputs: Arrays,
    datatypes: Mapping[str, str],
    outputs: Sequence[str] = (),
    timeout: int | None = None,
) -> Sequence[TensorSpec]:
    """Check a decoded request for inference, set the call's inputs, samples, batch key, outputs and deadline, and
    return the requested outputs: those that ``outputs`` names, in order, or all. ``datatypes`` has the protocol's
    datatype of each input, and ``timeout`` is in microseconds. Raises InvalidRequestError."""
    if len(set(outputs)) < len(outputs):  # a small request could ask for a huge answer
        raise InvalidRequestError("an output is requested twice; name each output once")
    known = {spec.name: spec for spec in model.signature.outputs}
    if unknown := [name for name in outputs if name not in known]:
        listed = "; ".join(map(str, model.signature.outputs))
        raise InvalidRequestError(f"unknown output {unknown[0]!r}; the model gives {listed}")
    if timeout is not None:  # a stream has one deadline, but each of its requests may have a timeout
        call.deadline = earlier_deadline(timeout, call.deadline)
    call.samples, call.batch_key = model.check(inputs, datatypes)
    call.inputs, call.outputs = inputs, outputs or [*known]
    return [known[name] for name in call.outputs]


def earlier_deadline(microseconds: int, deadline: float | None) -> float:
    """Return min(``deadline``, now + ``microseconds``). Raises InvalidRequestError if ``microseconds`` is below 1."""
    if microseconds <= 0:
        raise InvalidRequestError(
            f"the parameter {TIMEOUT!r} must be an int64 of microseconds above 0, not {microseconds}"
        )
    own = time.monotonic() + microseconds / 1e6
    return own if deadline is None else min(own, deadline)
