"""Servers other than hangtag. A test decides what they answer over HTTP or gRPC, or which bytes they send."""

import http.server
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from hangtag.protos import inference_pb2 as pb
from tests.kit.http2 import DATA, END_STREAM, HEADERS, PREFACE, SETTINGS, frame

Pause = Callable[[float], bool]
"""Waits for this many seconds. If the test ends first, the function returns True immediately."""
Talk = Callable[[socket.socket, Pause], None]
"""Serves a connection, which is closed when the function returns."""


@contextmanager
def listener(talk: Talk) -> Iterator[str]:
    """The HOST:PORT of a listener that calls ``talk`` for each connection, in a separate thread."""
    ended = threading.Event()
    threads: list[threading.Thread] = []

    def converse(connection: socket.socket) -> None:
        with connection, suppress(OSError):  # the client closed the connection
            talk(connection, ended.wait)

    def accept() -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                connection, _ = listening.accept()
                connections.append(connection)
                threads.append(threading.Thread(target=converse, args=(connection,)))
                threads[-1].start()

    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            ended.set()
            listening.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for connection in connections:
                with suppress(OSError):  # the listener is closed
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


def hang_up(_connection: socket.socket, _pause: Pause) -> None:
    """Close the connection immediately, like a load balancer that has no server."""


def say_nothing(_connection: socket.socket, pause: Pause) -> None:
    """Keep the connection open until the test ends."""
    pause(threading.TIMEOUT_MAX)


def answering(answer: Callable[[], bytes]) -> Talk:
    """Wait for the first bytes, send the result of ``answer``, and close the connection."""

    def talk(connection: socket.socket, _pause: Pause) -> None:
        connection.recv(1 << 16)
        connection.sendall(answer())

    return talk


def answering_over_http2(kind: int, payload: bytes, *, flags: int = 0) -> Talk:
    """Answer each call over HTTP/2 with one frame, like a proxy that gets no answer from a server."""

    def talk(connection: socket.socket, _pause: Pause) -> None:
        with connection.makefile("rb") as received:
            received.read(len(PREFACE))
            connection.sendall(frame(SETTINGS))
            while len(head := received.read(9)) == 9:
                received.read(int.from_bytes(head[:3]))
                if head[3] in (DATA, HEADERS) and head[4] & END_STREAM:
                    connection.sendall(frame(kind, payload, flags=flags, stream=int.from_bytes(head[5:])))

    return talk


@contextmanager
def refusing() -> Iterator[str]:
    """A HOST:PORT that refuses connections. The port is reserved, so that no program can listen there."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@contextmanager
def unreachable(host: str, port: int = 0) -> Iterator[int]:
    """A port at which attempts to connect get no answer, because its backlog is full. 0 chooses a free port."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind((host, port))
        listening.listen(0)
        with suppress(TimeoutError):
            for _ in range(8):
                stack.enter_context(socket.create_connection(listening.getsockname(), timeout=0.2))
        yield listening.getsockname()[1]


Answer = tuple[int, dict[str, str], bytes]
"""The status, headers and body of a response."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # with the default backlog of 5, the kernel would drop connections

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the exceptions that a test's ``answer`` raises, but not those of connections that a client closed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def web_server(answer: Callable[[str], Answer]) -> Iterator[str]:
    """Yield an HTTP server's HOST:PORT. ``answer`` gets a request's path, or its URL if the server is a proxy."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # the head and the body are written separately

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            status, headers, body = answer(self.path)
            self.send_response(status)
            known_length = {} if "transfer-encoding" in headers else {"content-length": str(len(body))}
            for name, value in {**known_length, **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the library names its methods

        def log_message(self, *_: object) -> None:
            """Print nothing about requests."""

    web = _Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, args=(0.01,)).start()
    try:
        yield f"127.0.0.1:{web.server_port}"
    finally:
        web.shutdown()
        web.server_close()


Method = Callable[[Iterator[bytes], grpc.ServicerContext], Iterable[Any]]
"""Takes the messages of a call as bytes, and yields responses; a unary method yields one. May abort or wait."""
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
INFERENCE = "/inference.GRPCInferenceService/"


class _Methods(grpc.GenericRpcHandler):
    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = methods

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        method = self._methods.get(details.method)  # if this is None, gRPC answers UNIMPLEMENTED
        return method and grpc.stream_stream_rpc_method_handler(
            method, response_serializer=lambda message: message.SerializeToString()
        )


@contextmanager
def grpc_server(methods: Mapping[str, Method], threads: int = 16) -> Iterator[str]:
    """Yield the HOST:PORT of a gRPC server with these methods.

    Args:
        methods: /package.Service/Method -> the function that answers.
        threads: The number of calls that are answered concurrently.
    """
    with ThreadPoolExecutor(threads) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers([_Methods(methods)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


def health(serving: bool) -> health_pb2.HealthCheckResponse:
    """The answer of the health service."""
    status = health_pb2.HealthCheckResponse
    return status(status=status.SERVING if serving else status.NOT_SERVING)


def output(name: str, datatype: str, shape: list[int], **contents: Any) -> pb.ModelInferResponse.InferOutputTensor:
    """An output tensor with typed contents, or without them if its bytes are in raw_output_contents."""
    return pb.ModelInferResponse.InferOutputTensor(
        name=name, datatype=datatype, shape=shape, contents=pb.InferTensorContents(**contents)
    )
