"""ModelInfer on the hot path: bytes in, bytes out, with every promise that the ordinary path keeps."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy.typing as npt
from google.protobuf.message import DecodeError

from protos import inference_pb2 as pb
from serving.server.batcher import Answer, Entry, Tensors
from serving.server.engine import Engine
from serving.server.errors import CancelledError, InvalidRequestError, ServerError
from serving.server.model import ServedModel
from serving.server.transport import codec
from serving.server.transport.call import Authorise, cost
from serving.server.transport.hot.completion_queue import UnaryCall
from serving.server.transport.hot.forms import Forms
from serving.server.transport.status import malformed, status_of

METHOD = "/inference.GRPCInferenceService/ModelInfer"


class HotInference:
    """The handler of ModelInfer's calls on the thread that polls."""

    def __init__(self, engine: Engine, authorise: Authorise | None = None) -> None:
        self._engine = engine
        self._authorise = authorise
        self._forms = Forms()

    def admit(self, call: UnaryCall) -> None:
        if self._authorise is not None:
            self._authorise(call.metadata)

    def handle(self, call: UnaryCall, message: bytes | None, *, wake: bool) -> ServedModel | None:
        if message is None:
            raise InvalidRequestError(f"{METHOD} takes exactly one request message; none came")
        form = self._forms.find(message)
        if form is not None:
            model = self._engine.model(form.model_name, form.model_version)
            if model is form.model:
                _Request(call, model, form.answer).queue(form.inputs(message), form.samples, form.kind, wake)
                return model
            self._forms.forget(message)  # another version serves by now
        return self._parse(call, message, wake)

    def _parse(self, call: UnaryCall, message: bytes, wake: bool) -> ServedModel:
        try:
            request = pb.ModelInferRequest.FromString(message)
        except DecodeError as error:
            raise InvalidRequestError(malformed(METHOD)) from error
        model = self._engine.model(request.model_name, request.model_version)
        inputs, datatypes = codec.decode_inputs(request)
        specs = codec.requested_outputs(request, model.signature)
        samples, kind = model.check(inputs, datatypes)
        self._forms.learn(message, request, model, specs, samples, kind)

        def encode(outputs: Mapping[str, npt.NDArray[Any]]) -> bytes:
            return codec.encode_response(request, model.version, specs, outputs).SerializeToString()

        _Request(call, model, encode).queue(inputs, samples, kind, wake)
        return model


class _Request:
    """A call that waits for its answer."""

    __slots__ = ("_call", "_encode", "_entry", "_model")

    def __init__(self, call: UnaryCall, model: ServedModel, encode: Callable[[Tensors], bytes]) -> None:
        self._call = call
        self._model = model
        self._encode = encode

    def queue(self, inputs: Tensors, samples: int, kind: Hashable, wake: bool) -> None:
        self._entry = Entry(inputs, samples, self._end, kind=kind, deadline=self._call.deadline)
        # A call whose batch starts at once is as good as computed; whoever has to wait may as well go away meanwhile.
        if wake or kind is not None or self._model.batcher.would_wait(samples):
            self._call.watch(self._cancel)
        self._model.batcher.put(self._entry, wake=wake)

    def _cancel(self) -> None:
        self._model.cancel(self._entry)

    def _end(self, outcome: Answer | ServerError) -> None:
        if isinstance(outcome, Answer):
            try:
                message = self._encode(outcome.outputs)
            except Exception as error:  # a bug of ours
                self._call.refuse(*status_of(error, METHOD))
            else:
                self._call.answer(message, cost(outcome.timings))
        elif not isinstance(outcome, CancelledError):  # else there is nobody to tell
            self._call.refuse(*status_of(outcome, METHOD))
