"""ModelStreamInfer: ModelInfer over a stream, with the fields that Triton's clients expect in its responses."""

from collections.abc import AsyncIterator
from typing import TypeAlias

import grpc

from hangtag.protos import inference_pb2 as pb
from hangtag.serving.server.transport.call import Origin
from hangtag.serving.server.transport.cost_metadata import route_metadata
from hangtag.serving.server.transport.grpc.calls import Context, invocation_metadata
from hangtag.serving.server.transport.grpc.streams.open_streams import OpenStreams
from hangtag.serving.server.transport.queries.infer_query import InferQuery
from hangtag.serving.server.transport.queries.loop_calls import LoopCall
from hangtag.serving.server.transport.status import call_status

_RPC = "ModelStreamInfer"
_FINAL = "triton_final_response"  # always true: every request has exactly one response here
_END_AT_ERROR = ("triton_grpc_error", "true")  # in the call's metadata: the first error ends the stream with its status

Response: TypeAlias = pb.ModelStreamInferResponse


async def answer_stream(
    streams: OpenStreams, requests: AsyncIterator[pb.ModelInferRequest], context: Context, origin: Origin
) -> None:
    """Answer a stream of ModelInfer requests, in order.

    A request that fails has its error as its response, unless the client's metadata sets ``triton_grpc_error``.

    Raises:
        ServerError: What ends the whole stream (see `OpenStreams.answer`).
    """
    ends_at_error = _END_AT_ERROR in invocation_metadata(context)

    def respond(request: pb.ModelInferRequest, call: LoopCall) -> Response:
        try:
            response = call.response()
        except Exception as error:
            if ends_at_error:
                raise
            return _error_response(request, *call_status(error, _RPC, request))
        response.parameters[_FINAL].bool_param = True
        if (timings := call.timings) is not None:
            response.parameters["queue_ns"].int64_param = timings.queue_ns
            response.parameters["compute_ns"].int64_param = timings.compute_ns
            response.parameters["batch_size"].int64_param = timings.batch_size
            for key, value in route_metadata(timings):
                response.parameters[key.replace("-", "_")].string_param = value
        return Response(infer_response=response)

    await streams.answer(requests, context, origin, InferQuery, respond)


def _error_response(request: pb.ModelInferRequest, code: grpc.StatusCode, message: str) -> Response:
    response = pb.ModelInferResponse(model_name=request.model_name, model_version=request.model_version, id=request.id)
    response.parameters[_FINAL].bool_param = True
    response.parameters["status"].string_param = code.name
    return Response(error_message=message, infer_response=response)
