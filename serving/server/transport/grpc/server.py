"""The gRPC server: both services, health and reflection on one address, on grpcio's public asynchronous API.

Everything that belongs to a call runs on the process' event loop. The methods here may be called from any other thread.
"""

import asyncio

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import SERVICE_NAME as HEALTH

from hangtag.protos import classifier_pb2, inference_pb2
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.model_settings import largest_settings
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.host.ports import require_free
from hangtag.serving.server.transport.event_loop import run
from hangtag.serving.server.transport.grpc.classifier_service import ClassifierService
from hangtag.serving.server.transport.grpc.handlers import Handlers
from hangtag.serving.server.transport.grpc.health_service import HealthService
from hangtag.serving.server.transport.grpc.inference_service import InferenceService
from hangtag.serving.server.transport.grpc.limits import channel_options
from hangtag.serving.server.transport.grpc.reflection import add_reflection
from hangtag.serving.server.transport.grpc.streams.open_streams import OpenStreams
from hangtag.serving.server.transport.methods import MODEL_INFER
from hangtag.serving.server.transport.queries.decoding_threads import DecodingThreads
from hangtag.serving.server.transport.queries.loop_calls import LoopCalls
from hangtag.serving.server.transport.repository.repository_calls import RepositoryCalls
from hangtag.serving.server.transport.security.tokens import Authorise
from hangtag.serving.server.transport.tracing import Tracing

_INFERENCE = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
_CLASSIFIER = classifier_pb2.DESCRIPTOR.services_by_name["Classifier"]
_SERVICES = (_INFERENCE.full_name, _CLASSIFIER.full_name)
_POLL_SECONDS = 0.005
_FLUSH_SECONDS = 0.2
"""How long connections stay open after the last response. gRPC's core closes a connection once its last response is
written; where the client has sent something that is not read yet, the kernel then resets it, and the client may lose
the end of a large response."""
_SPARE_CALLS = 32  # for health and metadata while all others wait for answers


class GrpcServer:
    """Listens from ``start`` on. Health is NOT_SERVING until ``refresh_health``, and again from ``stop`` on."""

    def __init__(
        self,
        engine: Engine,
        repository: RepositoryCalls,
        decoding: DecodingThreads,
        *,
        authorise: Authorise | None = None,
        credentials: grpc.ServerCredentials | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """Build the server; it does not listen yet.

        Args:
            engine: Has the models, and the configuration.
            repository: Loads, unloads and describes models, of all workers where there are several; the caller
                closes it.
            decoding: Decode pictures and large messages; the caller closes them too.
            authorise: Checks every call but those to health; None lets everybody call.
            credentials: TLS; None serves clear text.
            tracing: Gets a span for each call of an inference method; None records none.
        """
        self._engine = engine
        self._credentials = credentials
        config = engine.config
        self._calls = LoopCalls(engine, decoding)
        # So one stream can fill the next batch while another one is computed, but never the whole queue.
        window = min(config.max_queue_size, 2 * config.max_batch_size)
        self._streams = OpenStreams(
            self._calls, window, config.max_message_mib * 1024 * 1024, config.limits.max_streams
        )
        self._stopping = False
        self._inference = InferenceService(
            engine, repository, self._calls, self._streams, lambda: self._stopping, tracing
        )
        classifier = ClassifierService(engine, self._calls, self._streams, tracing)
        self._health = HealthService(config.limits.max_watches)
        self._health_names: set[str] = set()  # models with a state of their own in health
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._handlers = Handlers(engine, authorise, tracing)
        self._handlers.add_service(_INFERENCE, self._inference)
        self._handlers.add_bytes(MODEL_INFER, self._inference.ModelInfer)
        self._handlers.add_service(_CLASSIFIER, classifier)
        self._handlers.add_service(health_pb2.DESCRIPTOR.services_by_name["Health"], self._health)
        add_reflection(self._handlers, (*_SERVICES, HEALTH), config.limits)
        self._server: grpc.aio.Server | None = None

    def start(self, address: str = "") -> int:
        """Listen, and return the port.

        Args:
            address: As grpcio takes it, for example unix:/run/hangtag.sock; empty for the configured host and port.

        Raises:
            StartError: The address is not free, not this machine's, or needs a permission that is missing.
        """
        config = self._engine.config
        try:
            return run(self._start(address or config.address(config.port)))
        except RuntimeError as error:
            if not address:
                require_free(config.host, config.port)  # grpcio does not say what is wrong; this does
            raise StartError(f"cannot listen on {address or config.address(config.port)}: {error}") from error

    def refresh_health(self) -> None:
        """Set health to what the engine serves now: the server as a whole, and each model under its own name.

        While the server stops, this changes nothing.
        """
        self._set_health(health_pb2.HealthCheckResponse.SERVING)
        served = set(self._engine.names())
        gone = self._health_names - served
        self._health.set(dict.fromkeys(gone, health_pb2.HealthCheckResponse.NOT_SERVING))
        self._health.set(dict.fromkeys(served, health_pb2.HealthCheckResponse.SERVING))
        self._health_names |= served

    def announce_stop(self) -> None:
        """Report that the server is not ready, refuse new streams, and answer all other calls until ``stop``."""
        run(self._announce_stop())

    def stop(self, grace: float) -> None:
        """Set health to NOT_SERVING, refuse new calls, and let those in flight finish within ``grace`` seconds."""
        run(self._stop(grace))

    def close(self) -> None:
        """Do nothing: the connections are closed when it has stopped."""

    async def _start(self, address: str) -> int:
        config = self._engine.config
        self._server = server = grpc.aio.server(
            handlers=[self._handlers],
            options=channel_options(config),
            maximum_concurrent_rpcs=_max_calls(config),
        )
        if self._credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, self._credentials)
        await server.start()
        return port

    async def _announce_stop(self) -> None:
        self._stopping = True
        self._health.stop()
        self._streams.stop()

    async def _stop(self, grace: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        await self._announce_stop()
        self._handlers.refuse_new()
        while (self._calls.open or len(self._streams)) and loop.time() < deadline:
            await asyncio.sleep(_POLL_SECONDS)
        flushed = max(self._calls.last_answer, self._streams.last_end) + _FLUSH_SECONDS
        await asyncio.sleep(max(0.0, min(flushed, deadline) - loop.time()))
        if self._server is not None:
            await self._server.stop(max(0.0, deadline - loop.time()))

    def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        self._health.set(dict.fromkeys(("", *_SERVICES), status))


def _max_calls(config: ServerConfig) -> int:
    """One for each call that may wait to be decoded, be queued, computed, open as a stream, or wait for its message."""
    largest = largest_settings(config)
    inference = config.max_queue_size + largest.max_queue_size + largest.largest_batch_size * largest.instance_count
    limits = config.limits
    open_streams = limits.max_streams + limits.max_watches + limits.max_reflections
    return inference + limits.max_awaited_messages + open_streams + _SPARE_CALLS
