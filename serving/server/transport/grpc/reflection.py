"""Server reflection, v1 and v1alpha: clients such as grpcurl list the services and fetch their descriptors.

grpcio ships v1alpha only; v1 has the same messages under another service name.
"""

from collections.abc import Iterable

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

V1 = "grpc.reflection.v1.ServerReflection"


def add_reflection(server: grpc.Server, services: Iterable[str]) -> None:
    """Add both reflection services, which describe these services and themselves."""
    servicer = reflection.ReflectionServicer((*services, V1, reflection.SERVICE_NAME))
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (V1, reflection.SERVICE_NAME):
        methods = {"ServerReflectionInfo": handler}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))
