"""Server reflection, v1 and v1alpha: clients such as grpcurl list the services and fetch their descriptors.

grpcio ships v1alpha only; v1 has the same messages under another service name.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from grpc_reflection.v1alpha import reflection, reflection_pb2

from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.errors import DeadlineError
from hangtag.serving.server.transport.grpc.awaited_messages import take_place
from hangtag.serving.server.transport.grpc.calls import Context
from hangtag.serving.server.transport.grpc.handlers import Handlers

V1 = "grpc.reflection.v1.ServerReflection"


class _Reflection:
    def __init__(self, services: Iterable[str], limits: Limits) -> None:
        self._limits = limits
        self._servicer = reflection.aio.ReflectionServicer(services)
        self._open: dict[asyncio.Timeout, None] = {}

    async def ServerReflectionInfo(self, requests: AsyncIterator[Any], context: Context) -> None:
        try:
            async with asyncio.timeout(self._limits.reflection_seconds) as time_limit:
                take_place(self._open, self._limits.max_reflections, time_limit)
                try:
                    async for response in self._servicer.ServerReflectionInfo(requests, context):
                        await context.write(response)
                finally:
                    self._open.pop(time_limit, None)
        except TimeoutError:
            raise DeadlineError(
                f"a reflection stream may be open for {self._limits.reflection_seconds:g} s, and less long where "
                f"{self._limits.max_reflections} newer ones are; open another one"
            ) from None


def add_reflection(handlers: Handlers, services: Iterable[str], limits: Limits) -> None:
    """Add both reflection services, which describe these services and themselves."""
    servicer = _Reflection((*services, V1, reflection.SERVICE_NAME), limits)
    descriptor = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    for name in (V1, reflection.SERVICE_NAME):
        handlers.add_service(descriptor, servicer, name)
