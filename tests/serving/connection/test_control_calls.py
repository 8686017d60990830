"""Loads and unloads whose connection breaks: the server may have executed them, so they are not repeated."""

import socket
import socketserver
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hangtag.serving.client import ClientError, ConnectionOptions
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models
from tests.kit.kinds import KINDS, Kind, every_kind
from tests.kit.link import link
from tests.kit.web_server import web_server

TIMEOUT = 30.0
RETRYING = ConnectionOptions(retries=4, initial_backoff=0.05)
DATA, HEADERS, _, RST_STREAM, SETTINGS = range(5)
END_STREAM, END_HEADERS = 0x1, 0x4
UNKNOWN = r"whether the server has done it is unknown, and the call is not repeated: models\(\) of a client"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ServerConfig:
    """A server that serves ``text`` at first, and has ``gather`` too."""
    models = tmp_path_factory.mktemp("models")
    onnx_models.publish(models, "gather", onnx_models.gather())
    onnx_models.publish(models, "text", onnx_models.text())
    return ServerConfig(models=models, model_control="explicit", load_model=("text",), port=0, http_port=0)


class Http2Peer(socketserver.StreamRequestHandler):
    """Answers each call over HTTP/2 with the same frame, as proxies do that get no answer from a server."""

    kind, flags, payload = 0, 0, b""

    def handle(self) -> None:
        self.rfile.read(len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
        self.send(SETTINGS, 0, 0, b"")
        while len(head := self.rfile.read(9)) == 9:
            self.rfile.read(int.from_bytes(head[:3]))
            if head[3] in (DATA, HEADERS) and head[4] & END_STREAM:
                self.send(self.kind, self.flags, int.from_bytes(head[5:]), self.payload)

    def send(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self.wfile.write(len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload)


class Answers502(Http2Peer):
    kind, flags = HEADERS, END_STREAM | END_HEADERS
    payload = b"\x08\x03502"  # HPACK: the name of its table's entry 8, :status, and a value of three bytes


class Answers500(Answers502):
    payload = b"\x08\x03500"


class EndsStream(Http2Peer):
    kind, payload = RST_STREAM, bytes(4)


def wait_until_served(server: Server, model: str, served: bool) -> None:
    with grpc.insecure_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=model), timeout=TIMEOUT)
        for response in watch:
            if (response.status == health_pb2.HealthCheckResponse.SERVING) is served:
                return
    raise AssertionError("the stream of Watch ended")


@every_kind
@pytest.mark.parametrize(
    ("method", "model", "served"),
    [("unload_model", "text", []), ("load_model", "gather", ["gather", "text"])],
)
def test_a_call_whose_answer_is_lost_is_not_repeated(
    kind: Kind, config: ServerConfig, method: str, model: str, served: list[str]
) -> None:
    with (
        Server(config) as server,
        link(kind.of(server)) as to,
        kind.open(to.address, options=RETRYING) as client,
        ThreadPoolExecutor() as pool,
    ):
        assert client.models() == ["text"]
        to.lose_answers()
        call = pool.submit(getattr(client, method), model)
        wait_until_served(server, model, model in served)
        to.cut()
        with pytest.raises(ClientError, match=UNKNOWN) as caught:
            call.result(TIMEOUT)
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        assert to.connections == 1
        assert client.models() == served  # and these are tried again, as before


@every_kind
def test_where_no_server_answers_nothing_is_unknown(kind: Kind) -> None:
    with socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))
        with kind.open(f"127.0.0.1:{refusing.getsockname()[1]}", options=RETRYING) as client:
            for call in (client.load_model, client.unload_model):
                with pytest.raises(ClientError, match="no server answers at") as caught:
                    call("text")
                assert caught.value.code is grpc.StatusCode.UNAVAILABLE
                assert "unknown" not in str(caught.value)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.http], ids=str)
def test_the_refusal_of_a_proxy_says_nothing_of_the_server(kind: Kind) -> None:
    with web_server(lambda _: (502, {}, b"bad gateway")) as address, kind.open(address, options=RETRYING) as client:
        with pytest.raises(ClientError, match=f"answered 502 bad gateway; {UNKNOWN}"):
            client.unload_model("text")
        with pytest.raises(ClientError, match=r"answered 502 bad gateway$"):
            client.models()


@pytest.mark.parametrize(
    ("peer", "refusal"),
    [
        (Answers502, "answered HTTP 502 in place of a server"),
        (Answers500, "Received http2 header with status: 500"),
        (EndsStream, "ended the stream without the answer of a server"),
    ],
)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.http], ids=str)
def test_the_refusal_of_a_proxy_over_grpc_says_nothing_of_the_server(
    kind: Kind, peer: type[Http2Peer], refusal: str
) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), peer) as proxy:
        proxy.block_on_close = False  # grpcio 1.83 ends an AsyncClient's connection when its calls are collected
        threading.Thread(target=proxy.serve_forever, args=(0.01,)).start()
        try:
            with kind.open(f"127.0.0.1:{proxy.server_address[1]}", options=RETRYING) as client:
                with pytest.raises(ClientError, match=f"{refusal}; {UNKNOWN}"):
                    client.unload_model("text")
                with pytest.raises(ClientError, match=f"{refusal}$"):
                    client.models()
        finally:
            proxy.shutdown()
