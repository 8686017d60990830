"""Recognises requests that differ only in their tensor's bytes, so that only the first of them is parsed and checked.

A client sends the same kind of request again and again: the same model, input, datatype and shape, then 784 different
bytes. Such requests have the same *head*: the bytes before the tensor. A *plan* keeps the result of parsing and
checking one head. For the next message with that head, the plan gives the inputs without parsing, and builds the
response from parts that were serialized once. A plan's response has exactly the bytes of the codec's response.

A request gets a plan only if the head determines the request's meaning: the message has one input of a fixed-size
datatype, as raw contents at its very end, and no id or parameters. A plan is valid until the models that serve change.
Each transport defines the head: ``codec`` for messages of gRPC, and ``inference`` for HTTP.
"""

import math
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import structlog

from hangtag.protos import tensors
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.servable import Admission, Servable
from hangtag.serving.server.errors import InvalidRequestError, ServerError, UnavailableError
from hangtag.serving.server.queue.call import InferenceResult, Tensors
from hangtag.serving.server.telemetry.model_statistics import BatchCost
from hangtag.serving.server.wire.intake import Intake
from hangtag.serving.server.wire.transport_call import LARGE_MESSAGE, Query, TransportCall
from hangtag.serving.signature import Signature, TensorSpec

log = structlog.get_logger()

MAX_PLANS = 256
BY_VALUE = frozenset(tensors.DTYPES) - {"BOOL", "BYTES"}  # datatypes whose arrays are the raw bytes themselves
TIMEOUT = "timeout"  # Triton's parameter of a request: a time limit in microseconds after it is read

Arrays = dict[str, npt.NDArray[Any]]
Shapes: TypeAlias = tuple[tuple[int, ...], ...]
"""The shapes of a response's outputs."""
HeadsOf: TypeAlias = Callable[[Tensors], list[bytes]]
"""Returns, for each of a response's outputs, the bytes that precede the output's raw bytes. Only the shapes of the
outputs determine the result."""


class Plan:
    """The result of parsing and checking the first request with a head, by one version of a model."""

    def __init__(
        self, query: "InferQuery", model: Servable, inputs: Arrays, specs: Sequence[TensorSpec], admission: Admission
    ) -> None:
        """Keep the results for requests with the same head.

        Args:
            query: The request.
            model: The version that admitted the request.
            inputs: The request's only input.
            specs: The requested outputs.
            admission: The result of `Servable.check` for the request.
        """
        self.model_name, self.model_version, self.epoch = query.model_name, query.model_version, query.epoch
        self.model = model
        self.samples, self.batch_key = admission
        ((self.input, array),) = inputs.items()
        self.dtype, self.shape, self.contents_size = array.dtype, array.shape, array.nbytes
        self.output_names = [spec.name for spec in specs]
        self.heads: dict[Shapes, list[bytes]] = {}
        """The results of `make_heads` so far."""
        self._dtypes = [tensors.DTYPES[spec.datatype] for spec in specs]
        self._heads_of = query.heads_of(model, specs)
        shapes = [(self.samples, *spec.shape[1:]) if model.signature.batched else spec.shape for spec in specs]
        self.max_bytes = sum(8 * math.prod(math.inf if size is None else size for size in shape) for shape in shapes)
        """The largest size in bytes of the outputs of a response."""

    def encode(self, result: InferenceResult) -> bytes:
        """Return the serialized response."""
        arrays = [result.outputs[name] for name in self.output_names]
        shapes = tuple([array.shape for array in arrays])
        heads = self.heads.get(shapes) or self.make_heads(shapes)
        return b"".join([head + array.tobytes() for head, array in zip(heads, arrays, strict=True)])

    def make_heads(self, shapes: Shapes) -> list[bytes]:
        """Compute and keep the heads of a response whose outputs have these shapes: the bytes before each output's raw
        bytes."""
        if len(self.heads) >= MAX_PLANS:
            self.heads.clear()
        zeros = zip(self.output_names, map(np.zeros, shapes, self._dtypes), strict=True)
        heads = self.heads[shapes] = self._heads_of(dict(zeros))
        return heads


class PlannedCall(TransportCall):
    """A call whose request may have a plan."""

    plan: Plan | None = None
    """The request's plan; None if the request has no plan."""

    def put_planned(self, plan: Plan, message: bytes) -> bool:
        """Set the attributes that `Query.prepare` would set, and queue the call. The tensor is not copied.

        Args:
            plan: The request's plan.
            message: The request, whose last bytes become the only input's array, without a copy.

        Returns:
            Whether the call was queued or has ended. If the models that serve have changed, the result is False, and
            the caller must set a query and submit the call.
        """
        if plan.epoch != self.intake.engine.epoch:
            return False
        self.plan = plan
        self.inputs = {plan.input: np.ndarray(plan.shape, plan.dtype, message, len(message) - plan.contents_size)}
        self.samples = plan.samples
        self.batch_key = plan.batch_key
        self.model_name = plan.model_name
        self.model_version = plan.model_version
        self.outputs = plan.output_names
        self.encode = plan.encode
        try:
            plan.model.put(self)
        except UnavailableError:
            self.plan = None
            return False
        except ServerError as error:
            self.fail(error)
        return True

    def parts(self, outputs: Tensors, cost: BatchCost) -> list[tuple[bytes, bytes, int]]:
        """Return the parts of a batch's responses: for each output, the bytes that precede a call's rows, the bytes of
        all rows, and the number of bytes of one call's rows. The list is empty if each response must be built
        separately, because there is no plan, each response gets a span, or a thread should encode large responses."""
        plan = self.plan
        if plan is None or self.intake.tracing is not None:
            return []
        alone = cost.calls == 1  # the only call of a batch gets all rows
        shapes, large = [], 0
        parts: list[tuple[bytes, bytes, int]] = []
        try:
            for name in plan.output_names:
                array = outputs[name]
                shapes.append(array.shape if alone else (plan.samples, *array.shape[1:]))
                large += array.nbytes if alone else array.nbytes // cost.batch_size * plan.samples
            if large >= LARGE_MESSAGE:
                return []
            kind = tuple(shapes)
            heads = plan.heads.get(kind) or plan.make_heads(kind)
            for name, head in zip(plan.output_names, heads, strict=True):
                raw = outputs[name].tobytes()
                parts.append((head, raw, len(raw) if alone else len(raw) // cost.batch_size))
        except Exception:  # each call then raises and reports the error itself
            log.exception("answering a batch at once failed")
            return []
        return parts


class Plans:
    """The plans of one transport. The key is the head and the size of the contents, because a malformed message may
    have contents of another size than the head demands. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._keeping = threading.Lock()
        self._plans: dict[tuple[Hashable, int], Plan] = {}

    def keep(self, head: Hashable, plan: Plan) -> None:
        """Keep a plan, and drop the plans of models that no longer serve."""
        with self._keeping:
            for stale in [other for other, known in self._plans.items() if known.epoch != plan.epoch]:
                del self._plans[stale]
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            self._plans[head, plan.contents_size] = plan


class Decoded(NamedTuple):
    """The content of a request for inference."""

    inputs: Arrays
    datatypes: Mapping[str, str]
    """The protocol's datatype of each input."""
    outputs: Sequence[str] = ()
    """The names of the requested outputs, in order; empty for all of the model's outputs."""
    id: str = ""
    timeout: int | None = None
    """The request's own time limit in microseconds."""
    head: Hashable = None
    """The bytes before the tensor, if requests with these bytes differ only in the tensor's bytes; else None."""


class InferQuery(Query):
    """A request for inference in one of the protocols."""

    def __init__(self, model_name: str, model_version: str, plans: Plans | None) -> None:
        """``plans`` stores a plan of the request, if possible, after the request has passed every check."""
        self.model_name = model_name
        self.model_version = model_version
        self._plans = plans
        # must be read before the model is looked up, so that a plan for a model replaced in the meantime is never valid
        self.epoch = 0 if plans is None else plans.engine.epoch

    @abstractmethod
    def decode(self, signature: Signature) -> Decoded:
        """Decode the request. Raises ServerError if the request does not match the model's signature."""

    @abstractmethod
    def encoder(self, model: Servable, specs: Sequence[TensorSpec], intake: Intake) -> Callable[[InferenceResult], Any]:
        """Return a function that builds the response. ``model`` is the version that answers, and ``specs`` are the
        requested outputs."""

    @abstractmethod
    def heads_of(self, model: Servable, specs: Sequence[TensorSpec]) -> HeadsOf:
        """Return the function that computes the heads of a plan. The function must not keep the request in memory."""

    def prepare(self, model: Servable, call: TransportCall) -> None:
        inputs, datatypes, outputs, call.id, timeout, head = self.decode(model.signature)
        specs = _output_specs(outputs, model.signature) if outputs else model.signature.outputs
        if timeout is not None:  # a stream has one deadline, but each of its requests may have a timeout
            call.deadline = earlier_deadline(timeout, call.deadline)
        call.samples, call.batch_key = admission = model.check(inputs, datatypes)
        if self._plans is not None and head is not None and all(spec.datatype != "BYTES" for spec in specs):
            self._plans.keep(head, Plan(self, model, inputs, specs, admission))
        call.encode = self.encoder(model, specs, call.intake)
        call.inputs, call.outputs = inputs, [spec.name for spec in specs]


def _output_specs(names: Sequence[str], signature: Signature) -> Sequence[TensorSpec]:
    """Return the outputs with these names, in the names' order.

    Raises:
        InvalidRequestError: The model lacks an output, or an output is named twice.
    """
    specs = [(name, signature.output(name)) for name in names]
    if len(set(names)) < len(names):  # a small request could ask for a huge answer
        raise InvalidRequestError("an output is requested twice; name each output once")
    unknown = [name for name, spec in specs if spec is None]
    if unknown:
        known = "; ".join(str(spec) for spec in signature.outputs)
        raise InvalidRequestError(f"unknown output {unknown[0]!r}; the model gives {known}")
    return [spec for _, spec in specs if spec is not None]


def earlier_deadline(microseconds: int, deadline: float | None) -> float:
    """Return the earlier of ``deadline`` and now plus ``microseconds``, which must be above 0 (InvalidRequestError)."""
    if microseconds <= 0:
        raise InvalidRequestError(
            f"the parameter {TIMEOUT!r} must be an int64 of microseconds above 0, not {microseconds}"
        )
    own = time.monotonic() + microseconds / 1e6
    return own if deadline is None else min(own, deadline)
