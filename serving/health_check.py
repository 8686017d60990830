"""Ask a server's health service whether the server, or one of its models, is ready for requests."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from hangtag.protos import methods
from hangtag.serving.connection.client_options import ConnectionOptions
from hangtag.serving.connection.errors import ClientError, ClosedError, sending
from hangtag.serving.connection.method import Method

DEFAULT_TIMEOUT = 10.0
CHECK: Method[Any] = Method(methods.CHECK, health_pb2.HealthCheckResponse)
SERVING: int = health_pb2.HealthCheckResponse.SERVING
UNKNOWN: int = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
Call = Callable[[Method[Any], Any, float | None], Awaitable[Any]]


class HealthCalls:
    """Checks of readiness. ``Client`` and ``hangtag health`` run them in a thread, and ``AsyncClient`` with asyncio.

    ``call`` makes a call with a method, a request and a deadline in seconds (None for the connection's deadline).
    """

    def __init__(
        self, address: str, options: ConnectionOptions, call: Call, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._address, self._options, self._call, self._sleep = address, options, call, sleep

    async def is_ready(self, model: str = "") -> bool:
        """Return whether the server, or one model, is ready. A model that is loading or unknown is not ready.

        Args:
            model: a model's name, or "" for the whole server.

        Raises:
            ClientError: no server answers, or the server refuses the call.
        """
        return await self._status(model) == SERVING

    async def require_ready(self, model: str = "") -> None:
        """Raise ClientError with the reason if the server, or one model, is not ready. See ``is_ready``."""
        status = await self._status(model)
        if model and status == UNKNOWN and await self.is_ready():
            raise ClientError(grpc.StatusCode.NOT_FOUND, f"the server at {self._address} serves no model {model!r}")
        if status != SERVING:
            message = f"{model or 'the server'} at {self._address} is not ready; the server's log says why"
            raise ClientError(grpc.StatusCode.UNAVAILABLE, message)

    async def wait_until_ready(self, seconds: float, model: str = "") -> None:
        """Return as soon as the server, or one model, is ready. The server may start or be replaced during the wait.

        Args:
            seconds: the longest wait.
            model: as for ``is_ready``.

        Raises:
            ClientError: the server or model was not ready in time, or the server refuses the call.
        """
        deadline = time.monotonic() + seconds
        pauses = self._options.polling_pauses()
        late = f"{model or 'the server'} at {self._address} was not ready within {seconds:g} s"
        message = f"{late}: the server did not answer"
        while (left := deadline - time.monotonic()) > 0:
            try:
                status = await self._status(model, left)
                if status == SERVING:
                    return
                message = f"{late}; the server's log says why"
                if model and status == UNKNOWN:
                    message = f"the server at {self._address} served no model {model!r} within {seconds:g} s"
            except ClientError as error:
                if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
                    break
                # gRPC answers CANCELLED to calls that arrive while a server stops.
                passing = error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
                if isinstance(error, ClosedError) or not passing:
                    raise
                message = f"{late}: {error}"
            await self._sleep(max(0.0, min(next(pauses), deadline - time.monotonic())))
        raise ClientError(grpc.StatusCode.DEADLINE_EXCEEDED, message)

    async def _status(self, model: str, timeout: float | None = None) -> int:
        with sending():
            request = health_pb2.HealthCheckRequest(service=model)
        try:
            return int((await self._call(CHECK, request, timeout)).status)
        except ClientError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:  # the model is unknown, or not loaded yet
                return UNKNOWN
            raise
