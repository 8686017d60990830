"""A real server on a free port, real stubs that call it, and gates that hold back the server's batches."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hangtag.protos import inference_pb2 as pb
from hangtag.protos import tensors
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.runtime.session import RuntimeFactory
from studies.stubs import ClassifierStub, InferenceStub
from tests.kit.gate import Gate, Gates
from tests.kit.waiting import TIMEOUT as TIMEOUT
from tests.kit.waiting import until

Array = npt.NDArray[Any]


class LiveServer:
    """The server and every stub for calling it."""

    def __init__(self, config: ServerConfig, runtimes: RuntimeFactory | None = None, **arguments: Any) -> None:
        """Create a server that is not running yet.

        Args:
            config: The server's settings.
            runtimes: The factory with which the server loads the models; by default, ``gates``.
            arguments: More arguments of Server.
        """
        self.gates = Gates()
        """The gates that hold back batches of the server's models."""
        self.server = Server(config, runtimes=runtimes or self.gates, **arguments)

    def connect(self) -> grpc.Channel:
        return grpc.insecure_channel(self.server.address)

    def __enter__(self) -> "LiveServer":
        self.server.start()
        self.open_stubs()
        return self

    def open_stubs(self) -> None:
        """Connect to a server that is already listening, even if the server is still loading its models."""
        self.channel = self.connect()
        self.inference = InferenceStub(self.channel)
        self.classifier = ClassifierStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        self.server.stop(grace=0)

    @contextmanager
    def loading(self, model: str) -> Iterator[Callable[[], None]]:
        """Run the server until the block ends. The block begins while the server is still loading this model. The
        yielded function lets the server continue, and returns when the server has started."""
        starting = threading.Thread(target=self.server.start)
        with self.gates.held_load(model) as load, ExitStack() as stack:

            def go_on() -> None:
                load.release()
                starting.join(TIMEOUT)

            starting.start()
            stack.callback(self.server.stop, grace=0)
            stack.callback(go_on)
            load.wait()
            self.open_stubs()
            stack.callback(self.channel.close)
            yield go_on

    @contextmanager
    def stopping(self, grace: float = 3600.0) -> Iterator[threading.Thread]:
        """Stop the server in a thread, and let it drain for at most this many seconds. The body of the ``with``
        statement runs after the server has begun to stop. After this body, the server must end."""
        thread = threading.Thread(target=self.server.stop, args=(grace,))
        thread.start()
        try:
            until(lambda: not self.server.ready)
            yield thread
        finally:
            thread.join(TIMEOUT)
        assert not thread.is_alive()

    @contextmanager
    def caller(self) -> Iterator[Callable[[pb.ModelInferRequest], pb.ModelInferResponse]]:
        """Yield a function that calls ModelInfer over one separate connection."""
        with self.connect() as channel:
            stub = InferenceStub(channel)
            yield lambda request: stub.ModelInfer(request, timeout=TIMEOUT)

    def ready(self, name: str = "") -> bool:
        """Whether the server, or the model with this name, is ready."""
        if name:
            return bool(self.inference.ModelReady(pb.ModelReadyRequest(name=name), timeout=TIMEOUT).ready)
        return bool(self.inference.ServerReady(pb.ServerReadyRequest(), timeout=TIMEOUT).ready)

    def queued(self, name: str) -> int:
        """The number of requests that wait in a model's queue."""
        return sum(version.queued for version in self.server.state().versions if version.name == name)

    def wait_until_queued(self, name: str, count: int) -> None:
        """Wait until a model's queue holds this many requests, not counting requests that are being computed."""
        until(lambda: self.queued(name) == count)

    def wait_until_failed(self, name: str, count: int) -> None:
        """Wait until the server has counted this many failed requests of a model."""
        until(lambda: self.statistics(name).inference_stats.fail.count == count)

    def begin(self, sent: pb.ModelInferRequest, timeout: float = TIMEOUT) -> Any:
        """Start a call, and return it while it is in flight."""
        return self.inference.ModelInfer.future(sent, timeout=timeout)

    def occupy(self, gate: Gate, *sent: pb.ModelInferRequest) -> list[Any]:
        """Start calls of a model with one instance, so that the first is computed and the others wait in order."""
        calls = [self.begin(sent[0])]
        gate.wait_until_computing()
        for waiting, one in enumerate(sent[1:], start=1):
            calls.append(self.begin(one))
            self.wait_until_queued(one.model_name, waiting)
        return calls

    def infer(self, sent: pb.ModelInferRequest) -> dict[str, Array]:
        """Call ModelInfer, and return the outputs by name."""
        return outputs(self.inference.ModelInfer(sent, timeout=TIMEOUT))

    def statistics(self, name: str) -> pb.ModelStatistics:
        """The statistics of a model of which the server serves only one version."""
        response = self.inference.ModelStatistics(pb.ModelStatisticsRequest(name=name), timeout=TIMEOUT)
        statistics: pb.ModelStatistics
        (statistics,) = response.model_stats
        return statistics


def request(model: str, **inputs: Array) -> pb.ModelInferRequest:
    """A request with raw_input_contents."""
    return pb.ModelInferRequest(
        model_name=model,
        inputs=[
            pb.ModelInferRequest.InferInputTensor(name=name, datatype=tensors.datatype_of(array), shape=array.shape)
            for name, array in inputs.items()
        ],
        raw_input_contents=[tensors.to_raw(array) for array in inputs.values()],
    )


def outputs(response: pb.ModelInferResponse) -> dict[str, Array]:
    """The outputs of an answer with raw_output_contents, by name."""
    return {
        output.name: tensors.from_raw(output.datatype, output.shape, raw)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def number(value: float) -> Array:
    """One sample for ``free_axis``, which answers with the sample's sum."""
    return np.array([[value]], np.float32)


def index(*values: int) -> Array:
    """Samples for ``gather``, which multiplies each index by ten. The index 99 makes the batch fail."""
    return np.array(values, np.int64)


def failure(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """The status and the message with which a call ends."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    raise AssertionError("the call succeeded")


def is_closed(connection: socket.socket) -> bool:
    """Whether the server has closed a connection. Discards received bytes, and makes the socket non-blocking."""
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    return True


def status_of(health: health_pb2_grpc.HealthStub, service: str) -> str:
    """The health status of a service, such as SERVING."""
    response = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))


def watch(health: health_pb2_grpc.HealthStub, service: str, timeout: float = TIMEOUT) -> Iterator[str]:
    """Yield the name of each state that Watch sends."""
    for response in health.Watch(health_pb2.HealthCheckRequest(service=service), timeout=timeout):
        yield str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))
