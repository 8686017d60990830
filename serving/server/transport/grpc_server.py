"""grpcio's server around the engine: both services, health and reflection on one port."""

from collections.abc import Sequence
from concurrent import futures
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH

from protos import classifier_pb2, classifier_pb2_grpc, inference_pb2, inference_pb2_grpc
from serving.server.engine import Engine
from serving.server.errors import StartError
from serving.server.transport.call import Authorise
from serving.server.transport.classifier_service import ClassifierService
from serving.server.transport.health_service import MAX_WATCHES, HealthService
from serving.server.transport.hot import availability
from serving.server.transport.inference_service import InferenceService
from serving.server.transport.reflection import add_reflection
from serving.server.transport.status import RefusesMalformedMessages

if TYPE_CHECKING:
    from serving.server.transport.hot.path import HotPath

log = structlog.get_logger()

_SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
    classifier_pb2.DESCRIPTOR.services_by_name["Classifier"].full_name,
)
_MAX_PENDING = 100_000
_HOT_THREADS = 2  # one computes while the other polls
_SPARE_THREADS = 32  # for health, metadata and reflection while every other thread waits for an answer


class GrpcServer:
    """Listens from ``start`` on, says NOT_SERVING until ``set_ready``, and again from ``stop`` on."""

    def __init__(
        self,
        engine: Engine,
        *,
        authorise: Authorise | None = None,
        credentials: grpc.ServerCredentials | None = None,
        interceptors: Sequence[grpc.ServerInterceptor] = (),
    ) -> None:
        """authorise: asked before a ModelInfer call on the hot path is read; interceptors ask it on the ordinary path.

        credentials: for a secure port instead of an insecure one. Raises StartError when the hot path was asked for and
        cannot be had.
        """
        self._engine = engine
        self._credentials = credentials
        config = engine.config
        # On this path a call holds its thread until it is answered, so there are as many as may wait and be computed.
        threads = config.max_queue_size + config.max_batch_size * config.instance_count + MAX_WATCHES + _SPARE_THREADS
        message_bytes = config.max_message_mib * 1024 * 1024
        pool = futures.ThreadPoolExecutor(threads, thread_name_prefix="rpc")
        interceptors = [*interceptors, RefusesMalformedMessages()]
        options = [
            ("grpc.max_receive_message_length", message_bytes),
            ("grpc.max_send_message_length", message_bytes),
            # Also what bounds the calls that wait in gRPC's core until grpcio, on the ordinary path, gets to them.
            ("grpc.max_concurrent_streams", config.max_concurrent_streams),
            # Without this a second server on the port would silently get a part of the calls.
            ("grpc.so_reuseport", 0),
            # Beyond these gRPC's core answers a bare CANCELLED before anybody here sees the call; what is over
            # maximum_concurrent_rpcs gets RESOURCE_EXHAUSTED instead.
            ("grpc.server.max_pending_requests", _MAX_PENDING),
            ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING),
        ]
        self._hot: HotPath | None = None
        if self._use_hot_path():
            self._server, self._hot = _hot_server(engine, authorise, pool, interceptors, options, threads)
        else:
            self._server = grpc.server(
                pool, interceptors=interceptors, options=options, maximum_concurrent_rpcs=threads
            )
        self._health = HealthService()
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(InferenceService(engine), self._server)
        classifier_pb2_grpc.add_ClassifierServicer_to_server(ClassifierService(engine), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        add_reflection(self._server, (*_SERVICES, HEALTH))

    @property
    def path(self) -> str:
        """Which way ModelInfer goes: ``hot`` or ``ordinary``."""
        return "hot" if self._hot else "ordinary"

    def _use_hot_path(self) -> bool:
        wanted = self._engine.config.hot_path
        if wanted == "off":
            return False
        problem = availability.problem()
        if problem is None:
            return True
        if wanted == "on":
            raise StartError(f"the hot path cannot be used: {problem}. Use --hot-path auto, which does without it.")
        log.warning("no hot path; ModelInfer is served by grpcio's public API, more slowly", reason=problem)
        return False

    def start(self) -> int:
        """Listen; returns the port. Raises StartError when the address cannot be had."""
        config = self._engine.config
        address = config.address(config.port)
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
        (self._hot or self._server).start()
        return port

    def set_ready(self) -> None:
        """Tell health that every model serves, under its own name as well."""
        self._set_health(health_pb2.HealthCheckResponse.SERVING)
        for model in self._engine.models:
            self._health.set(model.name, health_pb2.HealthCheckResponse.SERVING)

    def stop(self, grace: float) -> None:
        """Say NOT_SERVING, refuse new calls, and let those in flight finish within ``grace`` seconds."""
        self._health.stop()
        self._server.stop(grace).wait()

    def close(self) -> None:
        """After ``stop``, and after the engine is closed: nobody computes an answer any more."""
        if self._hot:
            self._hot.close()

    def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", *_SERVICES):
            self._health.set(service, status)


def _hot_server(
    engine: Engine,
    authorise: Authorise | None,
    pool: futures.ThreadPoolExecutor,
    interceptors: Sequence[grpc.ServerInterceptor],
    options: Sequence[tuple[str, Any]],
    maximum_concurrent_rpcs: int,
) -> "tuple[grpc.Server, HotPath]":
    # Not before grpcio is known to be one with which these can be imported.
    from serving.server.transport.hot.completion_queue import SharedServer
    from serving.server.transport.hot.inference import METHOD, HotInference
    from serving.server.transport.hot.path import HotPath

    server = SharedServer(
        pool, interceptors=interceptors, options=options, maximum_concurrent_rpcs=maximum_concurrent_rpcs
    )
    threads = max(_HOT_THREADS, engine.config.instance_count)
    return server, HotPath(server, METHOD, HotInference(engine, authorise), threads)
