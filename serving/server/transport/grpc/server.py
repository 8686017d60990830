"""The gRPC server: both services, health and reflection on one address, on grpcio's public API."""

from concurrent import futures

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH

from hangtag.protos import classifier_pb2, classifier_pb2_grpc, inference_pb2, inference_pb2_grpc
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.engine.engine import Engine
from hangtag.serving.server.engine.model_control import Control
from hangtag.serving.server.engine.model_settings import largest_settings
from hangtag.serving.server.errors import StartError
from hangtag.serving.server.transport.grpc.classifier_service import ClassifierService
from hangtag.serving.server.transport.grpc.health_service import MAX_WATCHES, HealthService
from hangtag.serving.server.transport.grpc.inference_service import InferenceService
from hangtag.serving.server.transport.grpc.interceptors.authorisation import AuthorisationInterceptor, record_refusals
from hangtag.serving.server.transport.grpc.interceptors.errors import ErrorInterceptor
from hangtag.serving.server.transport.grpc.limits import channel_options
from hangtag.serving.server.transport.grpc.reflection import add_reflection
from hangtag.serving.server.transport.grpc.streams.open_streams import MAX_STREAMS, OpenStreams
from hangtag.serving.server.transport.security.tokens import Authorise
from hangtag.serving.server.transport.tracing import Tracing

_SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
    classifier_pb2.DESCRIPTOR.services_by_name["Classifier"].full_name,
)
_SPARE_THREADS = 32  # for health, metadata and reflection while all others wait for answers


class GrpcServer:
    """Listens from ``start`` on. Health is NOT_SERVING until ``refresh_health``, and again from ``stop`` on."""

    def __init__(
        self,
        engine: Engine,
        control: Control,
        *,
        authorise: Authorise | None = None,
        credentials: grpc.ServerCredentials | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """Build the server; it does not listen yet.

        Args:
            engine: Has the models, and the configuration.
            control: Loads, unloads and describes models, of all workers where there are several.
            authorise: Checks every call but those to health; None lets everybody call.
            credentials: TLS; None serves clear text.
            tracing: Gets a span for each call of an inference method; None records none.
        """
        self._engine = engine
        self._credentials = credentials
        config = engine.config
        threads = _handler_threads(config)
        if authorise is not None:
            authorise = record_refusals(authorise, engine)
        pool = futures.ThreadPoolExecutor(threads, thread_name_prefix="rpc")
        interceptors = [
            *([AuthorisationInterceptor(authorise)] if authorise else []),
            ErrorInterceptor(engine, tracing),
        ]
        options = channel_options(config)
        self._server = grpc.server(pool, interceptors=interceptors, options=options, maximum_concurrent_rpcs=threads)
        self._health = HealthService()
        self._health_names: set[str] = set()  # models with a state of their own in health
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        # So one stream can fill the next batch while another one is computed, but never the whole queue.
        window = min(config.max_queue_size, 2 * config.max_batch_size)
        self._streams = OpenStreams(engine, window, config.max_message_mib * 1024 * 1024)
        inference = InferenceService(engine, control, self._streams, tracing)
        inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(inference, self._server)
        classifier = ClassifierService(engine, self._streams, tracing)
        classifier_pb2_grpc.add_ClassifierServicer_to_server(classifier, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        add_reflection(self._server, (*_SERVICES, HEALTH))

    def start(self, address: str = "") -> int:
        """Listen, and return the port.

        Args:
            address: As grpcio takes it, for example unix:/run/hangtag.sock; empty for the configured host and port.

        Raises:
            StartError: The address is not free, or not this machine's.
        """
        config = self._engine.config
        address = address or config.address(config.port)
        try:
            if self._credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise StartError(
                f"cannot listen on {address}: another program has the port, or the address is not this "
                "machine's. Choose another with --port (0 picks a free one) or --host."
            ) from error
        self._server.start()
        return port

    def refresh_health(self) -> None:
        """Set health to what the engine serves now: the server as a whole, and each model under its own name."""
        self._set_health(health_pb2.HealthCheckResponse.SERVING)
        served = set(self._engine.names())
        for name in self._health_names - served:
            self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
        for name in served:
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._health_names |= served

    def stop(self, grace: float) -> None:
        """Set health to NOT_SERVING, refuse new calls, and let those in flight finish within ``grace`` seconds."""
        self._health.stop()
        self._streams.stop()
        self._server.stop(grace).wait()

    def close(self) -> None:
        """Do nothing: the transports' common interface has it for threads that end after the engine's close."""

    def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", *_SERVICES):
            self._health.set(service, status)


def _handler_threads(config: ServerConfig) -> int:
    """One for each call that may be queued, computed or open as a stream: a call holds its thread until it ends."""
    largest = largest_settings(config)
    inference = largest.max_queue_size + largest.largest_batch_size * largest.instance_count
    return inference + MAX_STREAMS + MAX_WATCHES + _SPARE_THREADS
