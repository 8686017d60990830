"""grpcio's server around the engine: both services, health and reflection on one port."""

from concurrent import futures

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH

from protos import classifier_pb2, classifier_pb2_grpc, inference_pb2, inference_pb2_grpc
from serving.server.engine import Engine
from serving.server.errors import StartError
from serving.server.transport.classifier_service import ClassifierService
from serving.server.transport.health_service import MAX_WATCHES, HealthService
from serving.server.transport.inference_service import InferenceService
from serving.server.transport.reflection import add_reflection
from serving.server.transport.status import RefusesMalformedMessages
from serving.server.transport.stream_errors import RefusesMalformedStreams
from serving.server.transport.streams import MAX_STREAMS, Streams

_SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
    classifier_pb2.DESCRIPTOR.services_by_name["Classifier"].full_name,
)
_MAX_PENDING = 100_000
_SPARE_THREADS = 32  # for health, metadata and reflection while every other thread waits for an answer


class GrpcServer:
    """Listens from ``start`` on, says NOT_SERVING until ``set_ready``, and again from ``stop`` on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        config = engine.config
        # On this path a call holds its thread until it is answered, so there are as many as may wait and be computed.
        threads = config.max_queue_size + config.max_batch_size * config.instances + MAX_WATCHES + _SPARE_THREADS
        threads += MAX_STREAMS
        message_bytes = config.max_message_mib * 1024 * 1024
        self._server = grpc.server(
            futures.ThreadPoolExecutor(threads, thread_name_prefix="rpc"),
            maximum_concurrent_rpcs=threads,
            interceptors=[RefusesMalformedMessages(), RefusesMalformedStreams()],
            options=[
                ("grpc.max_receive_message_length", message_bytes),
                ("grpc.max_send_message_length", message_bytes),
                # Without this a second server on the port would silently get a part of the calls.
                ("grpc.so_reuseport", 0),
                # Beyond these gRPC's core answers a bare CANCELLED before anybody here sees the call; what is over
                # maximum_concurrent_rpcs gets RESOURCE_EXHAUSTED instead.
                ("grpc.server.max_pending_requests", _MAX_PENDING),
                ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING),
            ],
        )
        self._health = HealthService()
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        # One stream alone fills the next batch while one is computed, and never the whole queue.
        self._streams = Streams(min(config.max_queue_size, 2 * config.max_batch_size), message_bytes)
        inference = InferenceService(engine, self._streams)
        inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(inference, self._server)
        classifier = ClassifierService(engine, self._streams)
        classifier_pb2_grpc.add_ClassifierServicer_to_server(classifier, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        add_reflection(self._server, (*_SERVICES, HEALTH))

    def start(self) -> int:
        """Listen; returns the port. Raises StartError when the address cannot be had."""
        config = self._engine.config
        address = config.address(config.port)
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise StartError(
                f"cannot listen on {address}: another program has the port, or the address is not this "
                "machine's. Choose another with --port (0 picks a free one) or --host."
            ) from error
        self._server.start()
        return port

    def set_ready(self) -> None:
        """Tell health that every model serves, under its own name as well."""
        self._set_health(health_pb2.HealthCheckResponse.SERVING)
        for model in self._engine.models:
            self._health.set(model.name, health_pb2.HealthCheckResponse.SERVING)

    def stop(self, grace: float) -> None:
        """Say NOT_SERVING, refuse new calls, and let those in flight finish within ``grace`` seconds."""
        self._health.stop()
        self._streams.stop()
        self._server.stop(grace).wait()

    def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", *_SERVICES):
            self._health.set(service, status)
