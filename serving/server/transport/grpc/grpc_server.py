"""The gRPC server: inference, classification, health and reflection on one address, over grpcio's asynchronous API.
grpcio ships only the version v1alpha of reflection, but v1 differs only in the name of the package. Everything except
the constructor and ``close`` runs on the process's event loop."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_reflection.v1alpha import reflection, reflection_pb2

from hangtag.protos import classifier_pb2, inference_pb2
from hangtag.serving.server.config.limits import Limits
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.errors import DeadlineError, NotFoundError, StartError
from hangtag.serving.server.host.ports import GRPC, GRPC_SOCKET, bind
from hangtag.serving.server.transport.grpc.services import Handlers, Services
from hangtag.serving.server.transport.grpc.streams import Context, OpenStreams
from hangtag.serving.server.wire.event_loop import LoopCalls, event_loop
from hangtag.serving.server.wire.intake import Intake

_INFERENCE = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
_CLASSIFIER = classifier_pb2.DESCRIPTOR.services_by_name["Classifier"]
_SERVICES = (_INFERENCE.full_name, _CLASSIFIER.full_name)
_Health: Any = health_pb2.HealthCheckResponse
_POLL_SECONDS = 0.005
_FLUSH_SECONDS = 0.2
"""The seconds that connections stay open after the last response. If gRPC's core closed a connection with unread bytes,
the kernel would reset it, and the client could lose the end of a large response. pygrpc-native's ``close`` drops
responses that its threads have not written yet. Neither grpcio nor pygrpc-native reports when a response is written."""
_MAX_PENDING = 100_000
V1 = "grpc.reflection.v1.ServerReflection"


class GrpcServer:
    """Listens after ``start``. Health is NOT_SERVING until the models are loaded, and again after ``stop``."""

    def __init__(self, intake: Intake) -> None:
        self._engine = engine = intake.engine
        calls = LoopCalls(intake)
        self._streams = OpenStreams(calls)
        self.health = HealthService(engine)
        self._handlers = Handlers(intake)
        services = Services(calls, self._streams)
        self._handlers.add_service(_INFERENCE, services)
        self._handlers.add_service(_CLASSIFIER, services)
        self._handlers.add_service(health_pb2.DESCRIPTOR.services_by_name["Health"], self.health)
        reflections = (V1, reflection.SERVICE_NAME)
        servicer = _Reflection((*_SERVICES, HEALTH, *reflections), engine.config.limits)
        for name in reflections:
            self._handlers.add_service(reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"], servicer, name)
        self._server: grpc.aio.Server | None = None

    async def start(self) -> int:
        """Listen, and return the port, or 0 behind Envoy. Raises StartError if the address cannot be bound."""
        config = self._engine.config
        if config.behind is not None:
            return await self._listen(f"unix:{config.behind / GRPC_SOCKET}")
        try:
            return await self._listen(config.address(config.port))
        except StartError:
            bind(config.host, config.port, GRPC).close()  # raises an error with the cause, which grpcio does not report
            raise

    async def stop(self, grace: float) -> None:
        """Report NOT_SERVING, refuse new streams, and let calls in flight finish within ``grace`` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        self.health.refresh()
        self._streams.stop()
        while self._answers() and loop.time() < deadline:
            await asyncio.sleep(_POLL_SECONDS)
        await asyncio.sleep(max(0.0, min(_FLUSH_SECONDS, deadline - loop.time())))
        if self._server is not None:
            await self._server.stop(max(0.0, deadline - loop.time()))

    def close(self) -> None:
        """After the engine is closed, close connections that ``stop`` has left open. grpcio leaves none open."""

    async def _listen(self, address: str) -> int:
        """Listen on an address in grpcio's form, such as unix:/run/hangtag.sock. Raises StartError."""
        config, message_bytes = self._engine.config, self._handlers.intake.max_message_bytes
        options = [
            ("grpc.max_receive_message_length", message_bytes),
            ("grpc.max_send_message_length", message_bytes),
            # A single process does not share its port, because a second server would silently get some of the calls.
            ("grpc.so_reuseport", int(config.workers > 1)),
            # Above this limit, gRPC's core answers CANCELLED without a message. The limit is so high that a full queue,
            # which answers RESOURCE_EXHAUSTED, takes effect first.
            ("grpc.server.max_pending_requests", _MAX_PENDING),
            ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING),
            ("grpc.max_concurrent_streams", config.max_concurrent_streams),
            # By default gRPC's core counts ended streams until they are cleaned up, and refuses further streams with
            # UNAVAILABLE, even for a client within the limit above.
            ("grpc.http.overload_protection", 0),
            # By default gRPC's core disconnects a client that pings more often than every five minutes.
            ("grpc.http2.max_ping_strikes", 0),
        ]
        self._server = server = grpc.aio.server(handlers=[self._handlers], options=options)
        try:
            port = server.add_insecure_port(address)
            await server.start()
        except RuntimeError as error:
            raise StartError(f"cannot listen on {address}: {error}") from error
        return port

    def _answers(self) -> bool:
        return self._handlers.open > 0


class HealthService:
    """The health of each name: "" is the whole server, any other name a service or a model. When the server stops, each
    Watch sends NOT_SERVING and ends, so that no Watch delays the stop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: set[str] = set()  # the models that are or were served
        self._changed = asyncio.Event()

    def refresh(self) -> None:
        """Let each Watch send the state of its service or model if the state has changed. Thread-safe."""
        self._known.update(self._engine.callable_names() if self._engine.ready else ())
        loop = event_loop()
        loop.call_soon_threadsafe(self._changed.set)  # wakes each Watch
        loop.call_soon_threadsafe(self._changed.clear)

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        state = self._state(request.service)
        if state == _Health.SERVICE_UNKNOWN:
            raise NotFoundError("no such service or model; an empty name stands for the whole server")
        return health_pb2.HealthCheckResponse(status=state)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        sent: int | None = None
        while True:
            stopping, state = self._engine.stopping, self._state(request.service)
            if state != sent:
                await context.write(_Health(status=state))
                sent = state
            elif stopping:
                return
            else:
                await self._changed.wait()

    def _state(self, name: str) -> int:
        serves = self._engine.ready
        if name not in ("", *_SERVICES):
            names = self._engine.callable_names() if serves else set()
            serves = name in names
            if not serves and name not in self._known:
                return int(_Health.SERVICE_UNKNOWN)
        return int(_Health.SERVING if serves else _Health.NOT_SERVING)


class _Reflection:
    def __init__(self, services: Iterable[str], limits: Limits) -> None:
        self._limits = limits
        self._servicer = reflection.aio.ReflectionServicer(services)
        self._open: dict[asyncio.Timeout, None] = {}  # the first stream has been open for longest

    async def ServerReflectionInfo(self, requests: AsyncIterator[Any], context: Context) -> None:
        try:
            async with asyncio.timeout(self._limits.reflection_seconds) as time_limit:
                if len(self._open) >= self._limits.max_reflections:
                    longest = next(iter(self._open))
                    del self._open[longest]
                    if not longest.expired():  # an expired stream ends by itself; rescheduling it would raise an error
                        longest.reschedule(asyncio.get_running_loop().time())
                self._open[time_limit] = None
                try:
                    async for response in self._servicer.ServerReflectionInfo(requests, context):
                        await context.write(response)
                finally:
                    self._open.pop(time_limit, None)
        except TimeoutError:
            raise DeadlineError(
                f"a reflection stream may be open for {self._limits.reflection_seconds:g} s, or until "
                f"{self._limits.max_reflections} newer streams are open; open another stream"
            ) from None
