"""Server reflection, v1 and v1alpha: clients such as grpcurl list the services and fetch their descriptors.

grpcio ships v1alpha only; v1 has the same messages under another service name.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from grpc_reflection.v1alpha import reflection, reflection_pb2

from hangtag.serving.server.errors import DeadlineError
from hangtag.serving.server.transport.grpc.awaited_messages import take_place
from hangtag.serving.server.transport.grpc.calls import Context
from hangtag.serving.server.transport.grpc.handlers import Handlers

V1 = "grpc.reflection.v1.ServerReflection"
MAX_REFLECTIONS = 32
"""Reflection streams that are open at once. One more ends the one that has been open for longest: a client that uses
its stream is done with it in a moment, so that is one that was forgotten."""
REFLECTION_SECONDS = 60.0
"""How long a reflection stream may be open."""


class _Reflection:
    def __init__(self, services: Iterable[str]) -> None:
        self._servicer = reflection.aio.ReflectionServicer(services)
        self._open: dict[asyncio.Timeout, None] = {}

    async def ServerReflectionInfo(self, requests: AsyncIterator[Any], context: Context) -> None:
        try:
            async with asyncio.timeout(REFLECTION_SECONDS) as time_limit:
                take_place(self._open, MAX_REFLECTIONS, time_limit)
                try:
                    async for response in self._servicer.ServerReflectionInfo(requests, context):
                        await context.write(response)
                finally:
                    self._open.pop(time_limit, None)
        except TimeoutError:
            raise DeadlineError(
                f"a reflection stream may be open for {REFLECTION_SECONDS:g} s, and less long where {MAX_REFLECTIONS} "
                "newer ones are; open another one"
            ) from None


def add_reflection(handlers: Handlers, services: Iterable[str]) -> None:
    """Add both reflection services, which describe these services and themselves."""
    servicer = _Reflection((*services, V1, reflection.SERVICE_NAME))
    descriptor = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    for name in (V1, reflection.SERVICE_NAME):
        handlers.add_service(descriptor, servicer, name)
