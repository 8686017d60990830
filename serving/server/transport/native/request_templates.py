"""Requests that differ in their tensor's bytes alone, recognised by the bytes before it, so that each is parsed once.

A client sends one kind of request over and over: the same model, input, datatype and shape, then 784 other bytes. Here
what was parsed and checked the first time is kept as a *form* and found again by the message's head, which saves the
parsing, the checks and the serialisation of most calls. A form answers as the ordinary codec does, to the byte.

Only requests whose meaning is fixed by their head become forms: one input of a fixed-size datatype as raw contents,
at the very end of the message, without an id or parameters.
"""

import weakref
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.transport import codec
from hangtag.serving.signature import TensorSpec

Arrays = Mapping[str, npt.NDArray[Any]]

MAX_FORMS = 256
_MAX_HEAD = 1024  # bytes
_RAW_INPUT = b"\x3a"  # field 7 of ModelInferRequest, length-delimited
_RAW_OUTPUT = b"\x32"  # field 6 of ModelInferResponse
_BY_VALUE = frozenset(tensors.DTYPES) - {"BOOL", "BYTES"}  # whose arrays are the raw bytes themselves


class Form:
    """What all requests with one head have in common, for the version of the model that checked the first."""

    def __init__(
        self,
        request: pb.ModelInferRequest,
        model: ServedModel,
        specs: Sequence[TensorSpec],
        samples: int,
        batch_key: Hashable,
    ) -> None:
        """request: without its contents. specs: the outputs that it asks for."""
        tensor = request.inputs[0]
        self.model_name = request.model_name
        self.model_version = request.model_version
        # Who is unloaded is to go, with its memory, although it was called once.
        self._model = weakref.ref(model)
        self._version = model.version
        self.samples = samples
        self.batch_key = batch_key
        self.request = request
        self._specs = specs
        self._input = tensor.name
        self._dtype = tensors.DTYPES[tensor.datatype]
        self._shape = tuple(tensor.shape)
        self.contents_size = self._dtype.itemsize * int(np.prod(self._shape))
        self._names = [spec.name for spec in specs]
        self._heads: dict[tuple[tuple[int, ...], ...], list[bytes]] = {}

    @property
    def model(self) -> ServedModel | None:
        """None: it is gone."""
        return self._model()

    def inputs(self, message: bytes) -> Arrays:
        """The one input, over the message's last bytes."""
        array = np.frombuffer(message, self._dtype, offset=len(message) - self.contents_size)
        return {self._input: array.reshape(self._shape)}

    def answer(self, outputs: Arrays) -> bytes:
        """The serialised response."""
        arrays = [outputs[name] for name in self._names]
        shapes = tuple([array.shape for array in arrays])
        heads = self._heads.get(shapes) or self._learn_heads(shapes, outputs)
        parts: list[bytes] = []
        for head, array in zip(heads, arrays, strict=True):
            parts += head, array.tobytes()
        return b"".join(parts)

    def _learn_heads(self, shapes: tuple[tuple[int, ...], ...], outputs: Arrays) -> list[bytes]:
        """What stands before each output's raw bytes."""
        response = codec.encode_response(self.request, self._version, self._specs, outputs)
        contents = [_RAW_OUTPUT + _varint(len(raw)) for raw in response.raw_output_contents]
        response.ClearField("raw_output_contents")
        contents[0] = response.SerializeToString() + contents[0]
        if len(self._heads) >= MAX_FORMS:
            self._heads.clear()
        self._heads[shapes] = contents
        return contents


class Forms:
    """The forms known so far. Not thread-safe: for the thread that polls."""

    def __init__(self) -> None:
        self._by_head: dict[bytes, Form] = {}
        self._contents_sizes: dict[int, int] = {}  # by the whole message's size

    def find(self, message: bytes) -> Form | None:
        size = self._contents_sizes.get(len(message))
        return None if size is None else self._by_head.get(message[:-size])

    def forget(self, message: bytes) -> None:
        """Its model is served no more, or not as it was."""
        self._by_head.pop(message[: -self._contents_sizes[len(message)]])

    def learn(
        self,
        message: bytes,
        request: pb.ModelInferRequest,
        model: ServedModel,
        specs: Sequence[TensorSpec],
        samples: int,
        batch_key: Hashable,
    ) -> Form | None:
        """A form of a request that passed every check, if it can have one."""
        if not _is_plain(request) or any(spec.datatype not in _BY_VALUE | {"BOOL"} for spec in specs):
            return None
        size = len(request.raw_input_contents[0])
        head = message[:-size]
        bare = _without_contents(head, size)
        if bare is None or len(head) > _MAX_HEAD:
            return None
        form = Form(bare, model, specs, samples, batch_key)
        asked = (form.model_name, form.model_version)
        for stale in [
            other
            for other, known in self._by_head.items()
            if known.model is not model and (known.model_name, known.model_version) == asked
        ]:
            del self._by_head[stale]
        if len(self._by_head) >= MAX_FORMS:
            self._by_head.clear()
            self._contents_sizes.clear()
        self._by_head[head] = form
        self._contents_sizes[len(message)] = size
        return form


def _is_plain(request: pb.ModelInferRequest) -> bool:
    return bool(
        len(request.inputs) == 1
        and len(request.raw_input_contents) == 1
        and request.raw_input_contents[0]
        and request.inputs[0].datatype in _BY_VALUE
        and not request.id
        and not request.parameters
    )


def _without_contents(head: bytes, size: int) -> pb.ModelInferRequest | None:
    """The message that the head is, less the key and length of the raw contents, or None if it is not whole there.

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
