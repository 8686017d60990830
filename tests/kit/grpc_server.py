"""A server of gRPC that is not hangtag's: a test decides its answers."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from hangtag.protos import inference_pb2 as pb

Method = Callable[[Iterator[bytes], grpc.ServicerContext], Iterable[Any]]
"""From the requests' bytes to the responses, of which a method that is no stream has one. It may abort or wait."""
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
INFERENCE = "/inference.GRPCInferenceService/"


class _Methods(grpc.GenericRpcHandler):
    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = methods

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        method = self._methods.get(details.method)  # gRPC answers UNIMPLEMENTED for None
        return method and grpc.stream_stream_rpc_method_handler(
            method, response_serializer=lambda message: message.SerializeToString()
        )


@contextmanager
def grpc_server(methods: Mapping[str, Method], threads: int = 16) -> Iterator[str]:
    """A server of these methods, by their full names; yields its HOST:PORT.

    Args:
        methods: /package.Service/Method -> what it does.
        threads: As many calls are answered at once.
    """
    with ThreadPoolExecutor(threads) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers([_Methods(methods)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


def health(serving: bool) -> health_pb2.HealthCheckResponse:
    """The answer of the health service for the whole server."""
    status = health_pb2.HealthCheckResponse
    return status(status=status.SERVING if serving else status.NOT_SERVING)


def output(name: str, datatype: str, shape: list[int], **contents: Any) -> pb.ModelInferResponse.InferOutputTensor:
    """An output with typed contents, or without any where its bytes stand apart."""
    return pb.ModelInferResponse.InferOutputTensor(
        name=name, datatype=datatype, shape=shape, contents=pb.InferTensorContents(**contents)
    )
