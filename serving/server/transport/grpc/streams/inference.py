"""ModelStreamInfer: ModelInfer over a stream, with what Triton's clients expect of one."""

from collections.abc import Iterator
from typing import TypeAlias

import grpc

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.batching.request import InferenceResult, OnComplete
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.served_model import ServedModel
from hangtag.serving.server.telemetry.model_statistics import Timings
from hangtag.serving.server.transport import codec
from hangtag.serving.server.transport.deadline import own_deadline
from hangtag.serving.server.transport.grpc.streams.ordered import Streams
from hangtag.serving.server.transport.status import call_status, request_log_fields
from hangtag.serving.server.transport.submission import Asked, asking

_RPC = "ModelStreamInfer"
_FINAL = "triton_final_response"  # every request has one response here, so each is the final one
_STRICT = ("triton_grpc_error", "true")  # in a call's metadata: the first failure ends the stream with its own status

Response: TypeAlias = pb.ModelStreamInferResponse


class InferStream:
    """Answers a stream of ModelInfer requests."""

    def __init__(self, engine: Engine, streams: Streams) -> None:
        self._engine = engine
        self._streams = streams

    def answer(self, requests: Iterator[pb.ModelInferRequest], context: grpc.ServicerContext) -> Iterator[Response]:
        """Raises what ends the whole stream."""
        metadata = tuple(context.invocation_metadata())
        strict = _STRICT in metadata

        def refuse(request: pb.ModelInferRequest, error: Exception) -> Response:
            if strict:
                raise error
            return _refusal(request, *call_status(error, _RPC, request_log_fields(request, metadata)))

        return self._streams.answer(requests, context, self._ask, refuse)

    def _ask(self, request: pb.ModelInferRequest, on_complete: OnComplete, deadline: float | None) -> Asked[Response]:
        def ask(model: ServedModel, on_complete: OnComplete, deadline: float | None) -> Asked[Response]:
            inputs, datatypes = codec.decode_inputs(request)
            specs = codec.requested_outputs(request, model.signature)
            entry = model.submit(inputs, datatypes, on_complete, own_deadline(request, deadline))

            def read(answer: InferenceResult) -> Response:
                return _response(codec.encode_response(request, model.version, specs, answer.outputs), answer.timings)

            return Asked(lambda: model.cancel(entry), read)

        return asking(self._engine, request.model_name, request.model_version, ask)(on_complete, deadline)


def _response(response: pb.ModelInferResponse, timings: Timings) -> Response:
    response.parameters[_FINAL].bool_param = True
    response.parameters["queue_ns"].int64_param = timings.queue_ns
    response.parameters["compute_ns"].int64_param = timings.compute_ns
    response.parameters["batch_size"].int64_param = timings.batch_size
    return Response(infer_response=response)


def _refusal(request: pb.ModelInferRequest, code: grpc.StatusCode, message: str) -> Response:
    response = pb.ModelInferResponse(model_name=request.model_name, model_version=request.model_version, id=request.id)
    response.parameters[_FINAL].bool_param = True
    response.parameters["status"].string_param = code.name
    return Response(error_message=message, infer_response=response)
