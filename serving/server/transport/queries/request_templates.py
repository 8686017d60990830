"""Recognises requests that differ in their tensor's bytes alone, so that only the first of them is parsed and checked.

A client sends the same kind of request again and again: one model, input, datatype and shape, then 784 other bytes.
The bytes before the tensor, the *head*, are then equal. A template keeps what was parsed and checked for one head. For
the next message with that head it gives the inputs without parsing, and it builds the response from parts that were
serialized once. The response is byte for byte what the codec makes.

Only requests whose meaning their head determines become templates: one input of a fixed-size datatype as raw contents,
at the very end of the message, without an id or parameters.
"""

import threading
import weakref
from collections.abc import Sequence

import numpy as np
from google.protobuf.message import DecodeError

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from hangtag.serving.server.batching.request import InferenceResult, Tensors
from hangtag.serving.server.engine.servable import Admission, Servable
from hangtag.serving.server.transport import codec
from hangtag.serving.signature import TensorSpec

MAX_TEMPLATES = 256
_MAX_HEAD = 1024  # bytes
_RAW_INPUT = b"\x3a"  # field 7 of ModelInferRequest, length-delimited
_RAW_OUTPUT = b"\x32"  # field 6 of ModelInferResponse
_BY_VALUE = frozenset(tensors.DTYPES) - {"BOOL", "BYTES"}  # datatypes whose arrays are the raw bytes themselves


class RequestTemplate:
    """What all requests with one head have in common, for the version of the model that checked the first."""

    def __init__(
        self, request: pb.ModelInferRequest, model: Servable, specs: Sequence[TensorSpec], admission: Admission
    ) -> None:
        """Keep what was learnt from the first request.

        Args:
            request: The first request, without its contents.
            model: The version that admitted it.
            specs: The outputs that it asks for.
            admission: What the model's check returned.
        """
        tensor = request.inputs[0]
        self.request = request
        self.model_name = request.model_name
        self.model_version = request.model_version
        # A weak reference, because a cached template must not keep an unloaded model in memory.
        self.model = weakref.ref(model)
        self.admission = admission
        self._version = model.version
        self._specs = specs
        self._input = tensor.name
        self._dtype = tensors.DTYPES[tensor.datatype]
        self._shape = tuple(tensor.shape)
        self.contents_size = self._dtype.itemsize * int(np.prod(self._shape))
        self.output_names = [spec.name for spec in specs]
        self._heads: dict[tuple[tuple[int, ...], ...], list[bytes]] = {}

    def inputs(self, message: bytes) -> Tensors:
        """Return the one input: an array over the message's last bytes, without a copy."""
        offset = len(message) - self.contents_size
        return {self._input: np.ndarray(self._shape, self._dtype, message, offset)}

    def encode(self, result: InferenceResult) -> bytes:
        """Return the serialized response."""
        outputs = result.outputs
        arrays = [outputs[name] for name in self.output_names]
        shapes = tuple([array.shape for array in arrays])
        heads = self._heads.get(shapes) or self._learn_heads(shapes, outputs)
        return b"".join([head + array.tobytes() for head, array in zip(heads, arrays, strict=True)])

    def _learn_heads(self, shapes: tuple[tuple[int, ...], ...], outputs: Tensors) -> list[bytes]:
        """Return what stands before each output's raw bytes, and keep it for these shapes."""
        response = codec.encode_response(self.request, self._version, self._specs, outputs)
        contents = [_RAW_OUTPUT + _varint(len(raw)) for raw in response.raw_output_contents]
        response.ClearField("raw_output_contents")
        contents[0] = response.SerializeToString() + contents[0]
        if len(self._heads) >= MAX_TEMPLATES:
            self._heads.clear()
        self._heads[shapes] = contents
        return contents


class RequestTemplates:
    """The templates known so far, by head. Thread-safe."""

    def __init__(self) -> None:
        self._learning = threading.Lock()
        self._by_head: dict[bytes, RequestTemplate] = {}
        self._contents_sizes: dict[int, int] = {}  # by the whole message's size

    def find(self, message: bytes) -> RequestTemplate | None:
        """Return the template whose head the message has, before contents of the size that the head says."""
        size = self._contents_sizes.get(len(message))
        template = None if size is None else self._by_head.get(message[:-size])
        # A malformed message may have the head of a larger tensor: its array would begin before the message.
        return template if template is not None and template.contents_size == size else None

    def learn(
        self,
        message: bytes,
        request: pb.ModelInferRequest,
        model: Servable,
        specs: Sequence[TensorSpec],
        admission: Admission,
    ) -> RequestTemplate | None:
        """Keep a template of a request that passed every check, and return it; None if there can be none."""
        if not _has_fixed_meaning(request) or any(spec.datatype not in _BY_VALUE | {"BOOL"} for spec in specs):
            return None
        size = len(request.raw_input_contents[0])
        head = message[:-size]
        bare = _without_contents(head, size)
        if bare is None or len(head) > _MAX_HEAD:
            return None
        template = RequestTemplate(bare, model, specs, admission)
        with self._learning:
            self._keep(template, head, len(message))
        return template

    def _keep(self, template: RequestTemplate, head: bytes, message_size: int) -> None:
        model = template.model()
        identity = (template.model_name, template.model_version)
        for stale in [
            other
            for other, known in self._by_head.items()
            if known.model() is not model and (known.model_name, known.model_version) == identity
        ]:
            del self._by_head[stale]
        if len(self._by_head) >= MAX_TEMPLATES:
            self._by_head.clear()
            self._contents_sizes.clear()
        self._by_head[head] = template
        self._contents_sizes[message_size] = template.contents_size


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
