"""Recognises requests that differ only in their tensor's bytes, so that only the first of them is parsed and checked.

A client sends the same kind of request again and again: the same model, input, datatype and shape, then 784 different
bytes. The bytes before the tensor, the *head*, are then equal. A *plan* keeps the result of parsing and checking one
head. For the next message with that head, the plan gives the inputs without parsing, and builds the response from parts
that were serialized once. A plan's response has exactly the bytes of the codec's response.

A request gets a plan only if its head determines its meaning: the message has one input of a fixed-size datatype, as
raw contents at its very end, and no id or parameters. A plan is valid until the models that serve change.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from functools import partial
from typing import Generic, TypeAlias, TypeVar

import numpy as np
import structlog
from google.protobuf.message import DecodeError

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from hangtag.protos.methods import MODEL_INFER
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.servable import Admission, Servable
from hangtag.serving.server.errors import ServerError, UnavailableError
from hangtag.serving.server.queue.call import InferenceResult, Tensors
from hangtag.serving.server.telemetry.model_statistics import BatchCost
from hangtag.serving.server.wire import codec
from hangtag.serving.server.wire.transport_call import LARGE_MESSAGE, TransportCall, submit_message
from hangtag.serving.signature import TensorSpec

log = structlog.get_logger()

MAX_PLANS = 256
_MAX_HEAD = 1024  # bytes
_RAW_INPUT = b"\x3a"  # field 7 of ModelInferRequest, length-delimited
_RAW_OUTPUT = b"\x32"  # field 6 of ModelInferResponse
BY_VALUE = frozenset(tensors.DTYPES) - {"BOOL", "BYTES"}  # datatypes whose arrays are the raw bytes themselves


Shapes: TypeAlias = tuple[tuple[int, ...], ...]
"""The shapes of a response's outputs."""


class Plan(ABC):
    """What all requests with one head have in common, for the model version that checked the first request."""

    def __init__(
        self,
        model: Servable,
        requested: tuple[str, str],
        tensor: tuple[str, str, Sequence[int]],
        specs: Sequence[TensorSpec],
        admission: Admission,
        epoch: int,
    ) -> None:
        """Keep the results of the first request.

        Args:
            model: The version that admitted the request.
            requested: The model's name and version as in the request.
            tensor: The name, datatype and shape of the request's only input.
            specs: The requested outputs.
            admission: The result of the model's check.
            epoch: The engine's epoch when the model was looked up.
        """
        self.model_name, self.model_version = requested
        self.model = model
        self.epoch = epoch
        self.samples, self.batch_key = admission
        self.specs = specs
        self.input, datatype, shape = tensor
        self.dtype = tensors.DTYPES[datatype]
        self.shape = tuple(shape)
        self.contents_size = self.dtype.itemsize * int(np.prod(self.shape))
        self.output_names = [spec.name for spec in specs]
        self.heads: dict[Shapes, list[bytes]] = {}
        """The results of `make_heads` so far."""

    def encode(self, result: InferenceResult) -> bytes:
        """Return the serialized response."""
        arrays = [result.outputs[name] for name in self.output_names]
        shapes = tuple([array.shape for array in arrays])
        heads = self.heads.get(shapes) or self.make_heads(shapes)
        return b"".join([head + array.tobytes() for head, array in zip(heads, arrays, strict=True)])

    def make_heads(self, shapes: Shapes) -> list[bytes]:
        """Make and keep the bytes that precede each output's raw bytes in a response with outputs of these shapes."""
        if len(self.heads) >= MAX_PLANS:
            self.heads.clear()
        zeros = {
            spec.name: np.zeros(shape, tensors.DTYPES[spec.datatype])
            for spec, shape in zip(self.specs, shapes, strict=True)
        }
        heads = self.heads[shapes] = self._heads_of(zeros)
        return heads

    @abstractmethod
    def _heads_of(self, outputs: Tensors) -> list[bytes]:
        """See `make_heads`. ``outputs`` have these shapes."""


class MessagePlan(Plan):
    """A plan for serialized ModelInfer messages."""

    def __init__(
        self,
        request: pb.ModelInferRequest,
        model: Servable,
        specs: Sequence[TensorSpec],
        admission: Admission,
        epoch: int,
    ) -> None:
        """``request`` is the first request, without its contents. `Plan` describes the other arguments."""
        tensor = request.inputs[0]
        requested = (request.model_name, request.model_version)
        super().__init__(model, requested, (tensor.name, tensor.datatype, tensor.shape), specs, admission, epoch)
        self.request = request

    def _heads_of(self, outputs: Tensors) -> list[bytes]:
        response = codec.encode_response(self.request, self.model.version, self.specs, outputs)
        heads = [_RAW_OUTPUT + _varint(len(raw)) for raw in response.raw_output_contents]
        response.ClearField("raw_output_contents")
        heads[0] = response.SerializeToString() + heads[0]
        return heads


class PlannedCall(TransportCall):
    """A call whose request may have a plan."""

    plan: Plan | None = None
    """The request's plan; None if the request has no plan."""

    def put_planned(self, plan: Plan, message: bytes) -> bool:
        """Set the attributes that `Query.prepare` sets, without a copy, and queue the call.

        Args:
            plan: The request's plan.
            message: The request, whose last bytes become the only input's array, without a copy.

        Returns:
            False if the models that serve have changed. The caller must then set a query and submit the call.
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
        alone = cost.calls == 1  # the response to a lone call has all rows of the batch
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


Head = TypeVar("Head", bound=Hashable)
OfHead = TypeVar("OfHead", bound=Plan)


class PlansByHead(Generic[Head, OfHead]):
    """The plans of one transport, by the head and the size of the contents, because in a malformed message the contents
    may have another size than the head says. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._keeping = threading.Lock()
        self._plans: dict[tuple[Head, int], OfHead] = {}

    def keep(self, head: Head, plan: OfHead) -> None:
        """Keep a plan, and drop the plans of models that no longer serve."""
        with self._keeping:
            for stale in [other for other, known in self._plans.items() if known.epoch != plan.epoch]:
                del self._plans[stale]
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            self._plans[head, plan.contents_size] = plan


class Plans(PlansByHead[bytes, MessagePlan]):
    """The plans known so far for ModelInfer messages. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._contents_sizes: dict[int, int] = {}  # size of a message -> size of its tensors' contents

    def of(self, message: bytes) -> MessagePlan | None:
        """Return the plan for the message's head, if the contents have the size that the head says."""
        size = self._contents_sizes.get(len(message))
        return None if size is None else self._plans.get((message[:-size], size))

    def query(self, message: bytes) -> codec.InferQuery:
        """Return the query of a message without a plan. If possible, a plan is kept after the message passed every
        check.

        Call this method before the model is looked up, so that a plan for a model replaced in the meantime is never
        valid.

        Raises:
            InvalidRequestError: The bytes are not a ModelInferRequest.
        """
        epoch = self._engine.epoch

        def learn(
            request: pb.ModelInferRequest, model: Servable, specs: Sequence[TensorSpec], admission: Admission
        ) -> None:
            if not _has_fixed_meaning(request) or any(spec.datatype not in BY_VALUE | {"BOOL"} for spec in specs):
                return
            size = len(request.raw_input_contents[0])
            head = message[:-size]
            bare = _without_contents(head, size)
            if bare is not None and len(head) <= _MAX_HEAD:
                if len(self._contents_sizes) >= MAX_PLANS:
                    self._contents_sizes.clear()
                self._contents_sizes[len(message)] = size
                self.keep(head, MessagePlan(bare, model, specs, admission, epoch))

        return codec.InferQuery(codec.parse_message(pb.ModelInferRequest.FromString, message, MODEL_INFER), learn)


def submit_infer(call: PlannedCall, plans: Plans, message: bytes) -> None:
    """Queue the call of a ModelInfer message, with the message's plan if there is one. An error becomes the call's
    outcome."""
    plan = plans.of(message)
    if plan is None or not call.put_planned(plan, message):
        submit_message(call, partial(plans.query, message), is_large=len(message) >= LARGE_MESSAGE)


def serialized(response: pb.ModelInferResponse | bytes) -> bytes:
    """Return the bytes of a response, which is a message from a query, or bytes from a plan."""
    return response if isinstance(response, bytes) else response.SerializeToString()


def _has_fixed_meaning(request: pb.ModelInferRequest) -> bool:
    return bool(
        len(request.inputs) == 1
        and len(request.raw_input_contents) == 1
        and request.raw_input_contents[0]
        and request.inputs[0].datatype in BY_VALUE
        and not request.id
        and not request.parameters
    )


def _without_contents(head: bytes, size: int) -> pb.ModelInferRequest | None:
    """Parse the head without the key and length of the raw contents at its end. Return None if the rest is not a whole
    message.

    So the contents are the message's last field, and any bytes that follow this head are the contents.
    """
    key = _RAW_INPUT + _varint(size)
    if not head.endswith(key):
        return None
    try:
        bare = pb.ModelInferRequest.FromString(head[: -len(key)])
    except DecodeError:
        return None
    return None if bare.raw_input_contents else bare


def _varint(value: int) -> bytes:
    """Source: the Protocol Buffers encoding, "Base 128 Varints"."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
