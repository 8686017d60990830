"""Recognises requests that differ in their tensor's bytes alone, so that only the first of them is parsed and checked.

A client sends the same kind of request again and again: one model, input, datatype and shape, then 784 other bytes.
The bytes before the tensor, the *head*, are then equal. A *plan* keeps what was parsed and checked for one head. For
the next message with that head it gives the inputs without parsing, and it builds the response from parts that were
serialized once. The response is byte for byte what the codec makes.

Only requests whose meaning their head determines get a plan: one input of a fixed-size datatype as raw contents, at the
very end of the message, without an id or parameters. A plan holds until what serves changes.
"""

import threading
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from google.protobuf.message import DecodeError

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from hangtag.serving.server.batching.call import InferenceResult, Tensors
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.servable import Admission, Servable
from hangtag.serving.server.telemetry.model_statistics import BatchCost
from hangtag.serving.server.transport import codec
from hangtag.serving.server.transport.call import LARGE_MESSAGE, TransportCall
from hangtag.serving.signature import TensorSpec

MAX_PLANS = 256
_MAX_HEAD = 1024  # bytes
_RAW_INPUT = b"\x3a"  # field 7 of ModelInferRequest, length-delimited
_RAW_OUTPUT = b"\x32"  # field 6 of ModelInferResponse
_BY_VALUE = frozenset(tensors.DTYPES) - {"BOOL", "BYTES"}  # datatypes whose arrays are the raw bytes themselves


Learn: TypeAlias = Callable[[pb.ModelInferRequest, Servable, Sequence[TensorSpec], Admission], None]
"""Gets a request, what admitted it, the outputs that it asks for, and what the model's check returned."""


class Plan:
    """What all requests with one head have in common, for the version of the model that checked the first."""

    def __init__(
        self,
        request: pb.ModelInferRequest,
        model: Servable,
        specs: Sequence[TensorSpec],
        admission: Admission,
        epoch: int,
    ) -> None:
        """Keep what was learnt from the first request.

        Args:
            request: The first request, without its contents.
            model: The version that admitted it.
            specs: The outputs that it asks for.
            admission: What the model's check returned.
            epoch: The engine's, when the model was looked up.
        """
        tensor = request.inputs[0]
        self.request = request
        self.model_name = request.model_name
        self.model_version = request.model_version
        self.model = model
        self.epoch = epoch
        self.samples, self.batch_key = admission
        self._specs = specs
        self._input = tensor.name
        self._dtype = tensors.DTYPES[tensor.datatype]
        self._shape = tuple(tensor.shape)
        self.contents_size = self._dtype.itemsize * int(np.prod(self._shape))
        self.output_names = [spec.name for spec in specs]
        self._heads: dict[tuple[tuple[int, ...], ...], list[bytes]] = {}

    def decode(self, message: bytes, call: TransportCall) -> None:
        """Set what `Query.prepare` sets, without a copy: the one input is an array over the message's last bytes."""
        offset = len(message) - self.contents_size
        call.inputs = {self._input: np.ndarray(self._shape, self._dtype, message, offset)}
        call.samples = self.samples
        call.batch_key = self.batch_key
        call.model_name = self.model_name
        call.model_version = self.model_version
        call.outputs = self.output_names
        call.encode = self.encode

    def encode(self, result: InferenceResult) -> bytes:
        """Return the serialized response."""
        arrays = [result.outputs[name] for name in self.output_names]
        heads = self.heads(tuple([array.shape for array in arrays]))
        return b"".join([head + array.tobytes() for head, array in zip(heads, arrays, strict=True)])

    def parts(self, outputs: Tensors, cost: BatchCost) -> list[tuple[bytes, bytes, int]]:
        """Return what the responses of a batch consist of, for each output: the bytes before a call's rows, those of
        all rows, and how many a row has. Empty where a response is so large that it is to be encoded on a thread."""
        alone = cost.calls == 1  # then the response has all rows, however many the model has made of one call's
        parts, shapes, large = [], [], 0
        for name in self.output_names:
            array = outputs[name]
            size = array.nbytes if alone else array.nbytes // cost.batch_size
            shapes.append(array.shape if alone else (self.samples, *array.shape[1:]))
            parts.append((array, size))
            large += size if alone else size * self.samples
        if large >= LARGE_MESSAGE:
            return []
        heads = self.heads(tuple(shapes))
        return [(head, array.tobytes(), size) for head, (array, size) in zip(heads, parts, strict=True)]

    def heads(self, shapes: tuple[tuple[int, ...], ...]) -> list[bytes]:
        """Return what stands in a response before the raw bytes of each output, where these have the shapes."""
        heads = self._heads.get(shapes)
        if heads is None:
            zeros: Tensors = {
                spec.name: np.zeros(shape, tensors.DTYPES[spec.datatype])
                for spec, shape in zip(self._specs, shapes, strict=True)
            }
            response = codec.encode_response(self.request, self.model.version, self._specs, zeros)
            heads = [_RAW_OUTPUT + _varint(len(raw)) for raw in response.raw_output_contents]
            response.ClearField("raw_output_contents")
            heads[0] = response.SerializeToString() + heads[0]
            if len(self._heads) >= MAX_PLANS:
                self._heads.clear()
            self._heads[shapes] = heads
        return heads


class Plans:
    """The plans known so far, by head. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._learning = threading.Lock()
        self._by_head: dict[bytes, Plan] = {}
        self._contents_sizes: dict[int, int] = {}  # by the whole message's size

    def find(self, message: bytes) -> Plan | None:
        """Return the plan whose head the message has, before contents of the size that the head says."""
        size = self._contents_sizes.get(len(message))
        if size is None:
            return None
        plan = self._by_head.get(message[:-size])
        # A malformed message may have the head of a larger tensor: its array would begin before the message.
        if plan is None or plan.epoch != self._engine.epoch or plan.contents_size != size:
            return None
        return plan

    def learner(self, message: bytes) -> Learn:
        """Return what keeps a plan of a serialized request once it has passed every check, if there can be one.

        To be called before its model is looked up, so that a plan of a model that is replaced meanwhile never holds.
        """
        epoch = self._engine.epoch

        def learn(
            request: pb.ModelInferRequest, model: Servable, specs: Sequence[TensorSpec], admission: Admission
        ) -> None:
            if not _has_fixed_meaning(request) or any(spec.datatype not in _BY_VALUE | {"BOOL"} for spec in specs):
                return
            size = len(request.raw_input_contents[0])
            head = message[:-size]
            bare = _without_contents(head, size)
            if bare is not None and len(head) <= _MAX_HEAD:
                self._keep(head, len(message), Plan(bare, model, specs, admission, epoch))

        return learn

    def _keep(self, head: bytes, message_size: int, plan: Plan) -> None:
        with self._learning:
            for stale in [other for other, known in self._by_head.items() if known.epoch != plan.epoch]:
                del self._by_head[stale]
            if len(self._by_head) >= MAX_PLANS:
                self._by_head.clear()
                self._contents_sizes.clear()
            self._by_head[head] = plan
            self._contents_sizes[message_size] = plan.contents_size


def _has_fixed_meaning(request: pb.ModelInferRequest) -> bool:
    return bool(
        len(request.inputs) == 1
        and len(request.raw_input_contents) == 1
        and request.raw_input_contents[0]
        and request.inputs[0].datatype in _BY_VALUE
        and not request.id
        and not request.parameters
    )


def _without_contents(head: bytes, size: int) -> pb.ModelInferRequest | None:
    """Return the message that the head is without the key and length of the raw contents; None if it is not whole.

    So it is certain that the contents are the message's last field, and that whatever bytes follow this head are they.
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
