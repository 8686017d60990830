"""A small Open Inference Protocol server on a real socket, whose answers a test decides."""

import itertools
import socket
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import inference_pb2_grpc

# Called before the answer to each ModelInfer call with its number, from 0. It may wait, or abort through the context.
Behaviour = Callable[[int, grpc.ServicerContext], None]
IMAGE = pb.ModelMetadataResponse.TensorMetadata(name="image", datatype="UINT8", shape=[-1, 28, 28])
PROBABILITIES = pb.ModelMetadataResponse.TensorMetadata(name="probabilities", datatype="FP32", shape=[-1, 10])


def metadata(name: str, *inputs: pb.ModelMetadataResponse.TensorMetadata) -> pb.ModelMetadataResponse:
    """A model's metadata; one 28x28 image unless inputs are given."""
    return pb.ModelMetadataResponse(name=name, versions=["1"], inputs=inputs or [IMAGE], outputs=[PROBABILITIES])


class FakeServer(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Models `fast` and `slow`, and `loading`, which never becomes ready."""

    def __init__(self) -> None:
        self.address = ""
        self.requests: list[pb.ModelInferRequest] = []
        self.behaviour: Behaviour = lambda number, context: None
        self.lists_models = True
        self.versions = ["1"]
        self.config: pb.ModelConfig | None = None  # ModelConfig is an extension that not every server has.
        self.keeps_statistics = True  # ModelStatistics is another extension.
        self.earlier = [0]  # What each of the servers behind the address counted before; they take calls in turn.
        self._turns = itertools.count()
        self.answer: Callable[[pb.ModelInferRequest], pb.ModelInferResponse] = lambda request: pb.ModelInferResponse(
            model_name=request.model_name, id=request.id
        )

    def ServerLive(self, request: pb.ServerLiveRequest, context: grpc.ServicerContext) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, request: pb.ServerReadyRequest, context: grpc.ServicerContext) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=True)

    def ModelConfig(self, request: pb.ModelConfigRequest, context: grpc.ServicerContext) -> pb.ModelConfigResponse:
        if self.config is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
        return pb.ModelConfigResponse(config=self.config)

    def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: grpc.ServicerContext
    ) -> pb.ModelStatisticsResponse:
        if not self.keeps_statistics:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
        version = request.version or self.versions[0]
        answering = next(self._turns) % len(self.earlier)
        counted = [
            sent
            for sent in self.requests[answering :: len(self.earlier)]
            if sent.model_name == request.name and sent.model_version in ("", version)
        ]
        count = self.earlier[answering] + len(counted)
        statistics = pb.ModelStatistics(
            name=request.name, version=version, inference_count=count, execution_count=count
        )
        statistics.inference_stats.success.count = count
        statistics.inference_stats.queue.ns = count * 2_000_000
        return pb.ModelStatisticsResponse(model_stats=[statistics])

    def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="fake", version="0.0")

    def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ModelMetadataResponse:
        if request.name not in ("fast", "slow", "loading"):
            context.abort(grpc.StatusCode.NOT_FOUND, f"no model {request.name}")
        if request.version not in ("", *self.versions):
            context.abort(grpc.StatusCode.NOT_FOUND, f"no version {request.version}")
        described = metadata(request.name)
        described.versions[:] = self.versions
        return described

    def ModelReady(self, request: pb.ModelReadyRequest, context: grpc.ServicerContext) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=request.name != "loading")

    def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryIndexResponse:
        if not self.lists_models:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
        return pb.RepositoryIndexResponse(models=[{"name": name} for name in ("slow", "fast")])

    def ModelInfer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        self.requests.append(request)
        self.behaviour(len(self.requests) - 1, context)
        return self.answer(request)


def refuse_one(address: str) -> None:
    """Accept one connection at this address and drop it, so that the client sees UNAVAILABLE."""
    host, port = address.rsplit(":", 1)
    with socket.create_server((host, int(port))) as listening:
        listening.settimeout(60)
        listening.accept()[0].close()


@contextmanager
def running(servicer: FakeServer, at: str = "127.0.0.1:0") -> Iterator[FakeServer]:
    """Run the servicer on this machine while the context is open, on a free port unless `at` names one."""
    server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    servicer.address = f"127.0.0.1:{server.add_insecure_port(at)}"
    server.start()
    try:
        yield servicer
    finally:
        server.stop(None).wait()
