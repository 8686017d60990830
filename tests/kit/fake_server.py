"""A small Open Inference Protocol server on a real socket, over gRPC or HTTP. Tests set its answers and delays."""

import itertools
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc
from google.protobuf.message_factory import GetMessageClass

from hangtag.protos import inference_pb2 as pb
from studies.stubs import InferenceStub
from tests.kit.other_servers import Answer, web_server

# Gets the number of each ModelInfer call, from 0, before the server answers. A behaviour may wait, or abort the call.
Behaviour = Callable[[int, Any], None]
Tensor = pb.ModelMetadataResponse.TensorMetadata
IMAGE = Tensor(name="image", datatype="UINT8", shape=[-1, 28, 28])
PROBABILITIES = Tensor(name="probabilities", datatype="FP32", shape=[-1, 10])
HTTP_STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
}


class FakeServer:
    """Serves the models `fast`, `slow` and `loading`, which never becomes ready. A test may add other models."""

    def __init__(self) -> None:
        self.address = ""
        self.inputs = {name: [IMAGE] for name in ("fast", "slow", "loading")}
        self.requests: list[pb.ModelInferRequest] = []
        self.behaviour: Behaviour = lambda number, context: None
        self.answer: Callable[[pb.ModelInferRequest], pb.ModelInferResponse] = lambda request: pb.ModelInferResponse(
            model_name=request.model_name, id=request.id
        )
        self.lists_models = True
        self.versions = ["1"]
        self.configs: Mapping[str, pb.ModelConfig] = {}  # Not every server has the extension ModelConfig.
        self.keeps_statistics = True  # Not every server has the extension ModelStatistics.
        # Returns the request count that a model's statistics report, given the actual count. None: no statistics.
        self.counters: Callable[[str, int], int | None] = lambda model, answered: answered
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def ServerLive(self, request: Any, context: Any) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: Any) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=True)

    def ServerMetadata(self, request: Any, context: Any) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="fake", version="0.0")

    def ModelConfig(self, request: pb.ModelConfigRequest, context: Any) -> pb.ModelConfigResponse:
        if request.name not in self.configs:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
        return pb.ModelConfigResponse(config=self.configs[request.name])

    def ModelStatistics(self, request: pb.ModelStatisticsRequest, context: Any) -> pb.ModelStatisticsResponse:
        if not self.keeps_statistics:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
        version = request.version or self.versions[0]
        with self._lock:
            answered = sum(
                sent.model_name == request.name and sent.model_version in ("", version) for sent in self.requests
            )
            count = self.counters(request.name, answered)
        if count is None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "")
            raise AssertionError("abort raises")
        statistics = pb.ModelStatistics(
            name=request.name, version=version, inference_count=count, execution_count=count
        )
        statistics.inference_stats.success.count = count
        statistics.inference_stats.queue.ns = count * 2_000_000
        return pb.ModelStatisticsResponse(model_stats=[statistics])

    def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Any) -> pb.ModelMetadataResponse:
        if request.name not in self.inputs:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no model {request.name}")
        if request.version not in ("", *self.versions):
            context.abort(grpc.StatusCode.NOT_FOUND, f"no version {request.version}")
        return pb.ModelMetadataResponse(
            name=request.name, versions=self.versions, inputs=self.inputs[request.name], outputs=[PROBABILITIES]
        )

    def ModelReady(self, request: pb.ModelReadyRequest, context: Any) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=request.name != "loading")

    def RepositoryIndex(self, request: Any, context: Any) -> pb.RepositoryIndexResponse:
        if not self.lists_models:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
        return pb.RepositoryIndexResponse(models=[{"name": name} for name in reversed(self.inputs)])

    def ModelInfer(self, request: pb.ModelInferRequest, context: Any) -> pb.ModelInferResponse:
        self._begin(request, context)
        return self.answer(request)

    def _begin(self, request: pb.ModelInferRequest, context: Any) -> None:
        with self._lock:
            self.requests.append(request)
            number = next(self._numbers)
        self.behaviour(number, context)

    def over_http(self, path: str) -> Answer:
        """Answer an HTTP request without reading its body. Models accept images, and answers list no output tensors."""
        _, *words = path.strip("/").split("/")  # v2
        if words[-1:] == ["infer"]:
            try:
                self._begin(pb.ModelInferRequest(model_name=words[1]), _HttpContext())
            except _AbortedError as aborted:
                return aborted.answer
            return _json({"model_name": words[1], "outputs": []})
        if words[-1:] in (["config"], ["stats"]):
            return 404, {}, b"{}"
        if words[-1:] in (["ready"], ["live"]):
            return _json({words[-1]: True})
        if words:
            inputs = [{"name": "image", "datatype": "UINT8", "shape": [-1, 28, 28]}]
            return _json({"name": words[1], "versions": ["1"], "inputs": inputs})
        return _json({"name": "fake", "version": "0.0"})


class _AbortedError(Exception):
    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.answer = answer


class _HttpContext:
    """The part of gRPC's context that a behaviour uses."""

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        raise _AbortedError((HTTP_STATUSES.get(code, 500), {}, json.dumps({"error": details}).encode()))


def _json(value: object) -> Answer:
    return 200, {}, json.dumps(value).encode()


def _handlers(servicer: object) -> grpc.GenericRpcHandler:
    """Serve those unary methods of GRPCInferenceService that ``servicer`` has. The server knows no other methods."""
    handlers = {}
    for method in InferenceStub.service.methods:
        answer = getattr(servicer, method.name, None)
        if answer is not None:
            parse = GetMessageClass(method.input_type).FromString
            serialize = GetMessageClass(method.output_type).SerializeToString
            handlers[method.name] = grpc.unary_unary_rpc_method_handler(answer, parse, serialize)
    return grpc.method_handlers_generic_handler(InferenceStub.service.full_name, handlers)


@contextmanager
def running(servicer: FakeServer, at: str = "127.0.0.1:0") -> Iterator[FakeServer]:
    """Run the servicer over gRPC while the context is open, on the port ``at`` or on a free port."""
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(16), options=options)
    server.add_generic_rpc_handlers((_handlers(servicer),))
    port = server.add_insecure_port(at)
    servicer.address = f"127.0.0.1:{port}"
    server.start()
    try:
        yield servicer
    finally:
        server.stop(None).wait()


@contextmanager
def running_over_http(servicer: FakeServer) -> Iterator[FakeServer]:
    """Run the servicer over HTTP while the context is open. The servicer's address is a URL."""
    with web_server(servicer.over_http) as address:
        servicer.address = f"http://{address}"
        yield servicer
