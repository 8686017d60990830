"""ModelInfer on the hot path: bytes in, bytes out, with every promise that the ordinary path keeps."""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy.typing as npt

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.batching.request import InferenceResult, QueuedRequest, Tensors
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.errors import CancelledError, InvalidRequestError, ServerError, UnavailableError
from hangtag.serving.server.transport import codec
from hangtag.serving.server.transport.cost_metadata import cost_metadata
from hangtag.serving.server.transport.grpc.interceptors.errors import refuse_undecodable
from hangtag.serving.server.transport.hot.completion_queue import UnaryCall
from hangtag.serving.server.transport.native.request_templates import Forms
from hangtag.serving.server.transport.security.tokens import Authorise
from hangtag.serving.server.transport.status import call_status, request_log_fields, status_code
from hangtag.serving.server.transport.submission import record_failure, retry_after_swap
from hangtag.serving.server.transport.tracing import Tracing

METHOD = "/inference.GRPCInferenceService/ModelInfer"

_UNREAD = pb.ModelInferRequest()
_read = refuse_undecodable(pb.ModelInferRequest.FromString, METHOD)


class HotInference:
    """The handler of ModelInfer's calls on the thread that polls."""

    def __init__(self, engine: Engine, authorise: Authorise | None = None, tracing: Tracing | None = None) -> None:
        self._engine = engine
        self._authorise = authorise
        self._tracing = tracing
        self._forms = Forms()

    def admit(self, call: UnaryCall) -> None:
        if self._authorise is not None:
            self._authorise(call.metadata)

    def handle(self, call: UnaryCall, message: bytes | None, *, wake: bool) -> ServedModel | None:
        reply = _Reply(call, self._engine, self._tracing)
        try:
            return self._queue(reply, message, wake)
        except Exception as error:
            reply.refuse(error)
            raise

    def _queue(self, reply: "_Reply", message: bytes | None, wake: bool) -> ServedModel:
        if message is None:
            raise InvalidRequestError(f"{METHOD} takes exactly one request message; none came")
        form = self._forms.find(message)
        if form is not None:
            reply.request = form.request
            model = self._engine.model(form.model_name, form.model_version)
            if model is form.model:
                try:
                    _Queued(reply, model, form.answer).put(
                        form.inputs(message), form.samples, form.batch_key, reply.call.deadline, wake
                    )
                except UnavailableError:
                    pass  # it was closed just now: ask its successor, if there is one
                else:
                    return model
            self._forms.forget(message)  # another version serves by now
        return self._parse(reply, message, wake)

    def _parse(self, reply: "_Reply", message: bytes, wake: bool) -> ServedModel:
        request = reply.request = _read(message)

        def ask(model: ServedModel) -> ServedModel:
            inputs, datatypes = codec.decode_inputs(request)
            specs = codec.requested_outputs(request, model.signature)
            samples, batch_key = model.check(inputs, datatypes)
            deadline = codec.request_deadline(request, reply.call.deadline)
            self._forms.learn(message, request, model, specs, samples, batch_key)

            def encode(outputs: Mapping[str, npt.NDArray[Any]]) -> bytes:
                return codec.encode_response(request, model.version, specs, outputs).SerializeToString()

            _Queued(reply, model, encode).put(inputs, samples, batch_key, deadline, wake)
            return model

        return retry_after_swap(self._engine, request.model_name, request.model_version, ask)


class _Reply:
    """What a call ends with, and who is told of it."""

    __slots__ = ("_engine", "_started", "_started_ns", "_tracing", "call", "queued", "request")

    def __init__(self, call: UnaryCall, engine: Engine, tracing: Tracing | None) -> None:
        self.call = call
        self.request = _UNREAD
        self.queued: _Queued | None = None
        """What waits for its answer: with the model that was asked last, where one was replaced by its successor."""
        self._engine = engine
        self._tracing = tracing
        self._started = time.perf_counter_ns()
        self._started_ns = time.time_ns() if tracing else 0

    def answer(self, message: bytes, answer: InferenceResult) -> None:
        trailing = cost_metadata(answer.timings)
        self.call.answer(message, trailing)
        if self._tracing:
            self._tracing.record(METHOD, self.call.metadata, self._started_ns, "OK", trailing)

    def cancel(self) -> None:
        """The caller went away."""
        queued = self.queued
        if queued is not None:
            queued.cancel()

    def refuse(self, error: Exception) -> None:
        code = status_code(error).name
        record_failure(self._engine, error, self._started, self.request.model_name, self.request.model_version)
        if self._tracing:
            self._tracing.record(METHOD, self.call.metadata, self._started_ns, code, ())
        if not isinstance(error, CancelledError):  # else there is nobody to tell
            self.call.refuse(*call_status(error, METHOD, request_log_fields(self.request, self.call.metadata)))


class _Queued:
    """A request that waits for its answer."""

    __slots__ = ("_encode", "_entry", "_model", "_reply")

    def __init__(self, reply: _Reply, model: ServedModel, encode: Callable[[Tensors], bytes]) -> None:
        self._reply = reply
        self._model = model
        self._encode = encode

    def put(self, inputs: Tensors, samples: int, batch_key: Hashable, deadline: float | None, wake: bool) -> None:
        call = self._reply.call
        self._entry = QueuedRequest(inputs, samples, self._end, batch_key=batch_key, deadline=deadline)
        self._reply.queued = self
        try:
            # A call whose batch starts at once is as good as computed; whoever has to wait may go away meanwhile.
            if wake or batch_key is not None or self._model.batcher.would_wait(samples):
                self._model.batcher.check(self._entry)  # to watch is much of what one costs that is refused
                call.watch(self._reply.cancel)
            self._model.batcher.put(self._entry, wake=wake)
        except ServerError:
            self._reply.queued = None
            del self._entry  # each refers to the other
            raise

    def cancel(self) -> None:
        self._model.cancel(self._entry)

    def _end(self, outcome: InferenceResult | ServerError) -> None:
        self._reply.queued = None
        if isinstance(outcome, InferenceResult):
            try:
                message = self._encode(outcome.outputs)
            except Exception as error:  # a bug of ours
                self._reply.refuse(error)
            else:
                self._reply.answer(message, outcome)
        else:
            self._reply.refuse(outcome)
