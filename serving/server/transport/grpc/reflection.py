"""Server reflection, v1 and v1alpha: clients such as grpcurl list the services and fetch their descriptors.

grpcio ships v1alpha only; v1 has the same messages under another service name.
"""

from collections.abc import AsyncIterator, Iterable
from typing import Any

from grpc_reflection.v1alpha import reflection, reflection_pb2

from hangtag.serving.server.transport.grpc.calls import Context
from hangtag.serving.server.transport.grpc.handlers import Handlers

V1 = "grpc.reflection.v1.ServerReflection"


class _Reflection:
    def __init__(self, services: Iterable[str]) -> None:
        self._servicer = reflection.aio.ReflectionServicer(services)

    async def ServerReflectionInfo(self, requests: AsyncIterator[Any], context: Context) -> None:
        async for response in self._servicer.ServerReflectionInfo(requests, context):
            await context.write(response)


def add_reflection(handlers: Handlers, services: Iterable[str]) -> None:
    """Add both reflection services, which describe these services and themselves."""
    servicer = _Reflection((*services, V1, reflection.SERVICE_NAME))
    descriptor = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    for name in (V1, reflection.SERVICE_NAME):
        handlers.add_service(descriptor, servicer, name)
