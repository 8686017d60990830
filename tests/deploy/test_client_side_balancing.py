"""Clients that balance by themselves, as docs/deploy.md tells them to, call replicas that came after they connected."""

import ast
import re
import socket
import struct
import threading
import time
from pathlib import Path

import grpc

from hangtag.protos import inference_pb2_grpc
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from tests import onnx_models
from tests.serving.server.transport.live import index, request

ROOT = Path(__file__).parents[2]
SECONDS = 30.0
ADDRESS = 1  # DNS' type A


class NameServer:
    """Tells whoever asks the addresses that stand in ``addresses`` (RFC 1035). Use as a context manager."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._answer_all)

    def __enter__(self) -> "NameServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def _answer_all(self) -> None:
        while True:
            question, caller = self._socket.recvfrom(512)
            if not question:
                return
            end = question.index(b"\0", 12) + 5  # behind the name come its type and class, of two bytes each
            (kind,) = struct.unpack("!H", question[end - 4 : end - 2])
            found = list(self.addresses) if kind == ADDRESS else []
            head = question[:2] + struct.pack("!HHHHH", 0x8180, 1, len(found), 0, 0)
            record = b"\xc0\x0c" + struct.pack("!HHIH", ADDRESS, 1, 1, 4)  # the name of byte 12, for a second
            answers = b"".join(record + socket.inet_aton(address) for address in found)
            self._socket.sendto(head + question[12:end] + answers, caller)


def answered(server: Server) -> int:
    (version,) = server.state().versions
    return version.counters.inference_count


def test_a_replica_that_came_later_gets_its_share(tmp_path: Path) -> None:
    (found,) = re.findall(r"^balanced = (.*)$", (ROOT / "docs/deploy.md").read_text(), re.MULTILINE)
    # gRPC asks for addresses once in 30 s at most, unless it is told otherwise.
    options = [ast.literal_eval(found), ("grpc.dns_min_time_between_resolutions_ms", 100)]
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    asked = request("gather", index=index(1))

    def config(host: str, port: int) -> ServerConfig:
        return ServerConfig(models=tmp_path, host=host, port=port, connection_age_seconds=0.3)

    with (
        Server(config("127.0.0.1", 0)) as first,
        NameServer("127.0.0.1") as names,
        grpc.insecure_channel(f"dns://127.0.0.1:{names.port}/hangtag.example:{first.port}", options) as channel,
    ):
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        stub.ModelInfer(asked, timeout=SECONDS)
        with Server(config("127.0.0.2", first.port)) as second:
            names.addresses.append("127.0.0.2")
            until = time.monotonic() + SECONDS
            while answered(second) < 50:
                stub.ModelInfer(asked, timeout=SECONDS)
                assert time.monotonic() < until, (
                    f"{answered(first)} calls for the first, {answered(second)} for the other"
                )
            assert answered(first) > 1
