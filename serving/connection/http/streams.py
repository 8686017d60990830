"""Streams over HTTP, which the protocol does not have there: one call for each request, several in flight."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from hangtag.protos import classifier_pb2, inference_pb2
from hangtag.serving.connection.errors import ClientError
from hangtag.serving.connection.http.codec import routes
from hangtag.serving.connection.method import Method

IN_FLIGHT = 16
"""Calls of one stream that are in flight at most, so that the server can compute them together."""
# Failures that are not of one request: they end the stream, as they end gRPC's.
_OF_THE_STREAM = (
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED,
)


@dataclass(frozen=True)
class Stream:
    """How calls stand in for a stream.

    Attributes:
        method: of each call.
        of_answer: from a call's response to the stream's.
        of_failure: from a call's failure to the stream's response that carries it.
    """

    method: Method[Any]
    of_answer: Callable[[Any], Any]
    of_failure: Callable[[ClientError], Any]

    def failure(self, error: ClientError) -> Any:
        """Return the stream's response for a failed call. Raises the error where it ends the stream."""
        if error.code in _OF_THE_STREAM:
            raise error
        return self.of_failure(error)


def _classify_failure(error: ClientError) -> classifier_pb2.ClassifyStreamResponse:
    failure = classifier_pb2.Failure(code=error.code.value[0], message=str(error))
    return classifier_pb2.ClassifyStreamResponse(failure=failure)


def _infer_failure(error: ClientError) -> inference_pb2.ModelStreamInferResponse:
    status = {"status": inference_pb2.InferParameter(string_param=error.code.name)}
    return inference_pb2.ModelStreamInferResponse(
        error_message=str(error), infer_response=inference_pb2.ModelInferResponse(parameters=status)
    )


STREAMS = {
    routes.CLASSIFY_STREAM: Stream(
        Method(routes.CLASSIFY, classifier_pb2.ClassifyResponse),
        lambda answer: classifier_pb2.ClassifyStreamResponse(answer=answer),
        _classify_failure,
    ),
    routes.INFER_STREAM: Stream(
        Method(routes.INFER, inference_pb2.ModelInferResponse),
        lambda answer: inference_pb2.ModelStreamInferResponse(infer_response=answer),
        _infer_failure,
    ),
}
"""By the streaming method's full name."""
