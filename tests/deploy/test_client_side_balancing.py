"""A client with docs/deploy.md's round_robin configuration also calls replicas that start after it has connected."""

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
from tests.kit import onnx_models
from tests.kit.live import index, request

ROOT = Path(__file__).parents[2]
TIMEOUT = 30.0  # seconds
TYPE_A = 1  # DNS record type: an IPv4 address


class NameServer:
    """A DNS server (RFC 1035) that answers each query with ``addresses``. Use as a context manager."""

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
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", ("127.0.0.1", self.port))  # an empty datagram ends the thread
        self._thread.join()
        self._socket.close()

    def _answer_all(self) -> None:
        while True:
            query, client = self._socket.recvfrom(512)
            if not query:
                return
            # The name starts at byte 12 and ends with 0. Its type and class follow, with two bytes each.
            end = query.index(b"\0", 12) + 5
            (record_type,) = struct.unpack("!H", query[end - 4 : end - 2])
            addresses = list(self.addresses) if record_type == TYPE_A else []
            header = query[:2] + struct.pack("!HHHHH", 0x8180, 1, len(addresses), 0, 0)
            record = b"\xc0\x0c" + struct.pack("!HHIH", TYPE_A, 1, 1, 4)  # points to the name at byte 12; valid for 1 s
            answers = b"".join(record + socket.inet_aton(address) for address in addresses)
            self._socket.sendto(header + query[12:end] + answers, client)


def inference_count(server: Server) -> int:
    (version,) = server.state().versions
    return version.counters.inference_count


def test_a_replica_that_starts_later_gets_calls(tmp_path: Path) -> None:
    (option,) = re.findall(r"^balanced = (.*)$", (ROOT / "docs/deploy.md").read_text(), re.MULTILINE)
    # By default gRPC resolves a name at most once in 30 s.
    options = [ast.literal_eval(option), ("grpc.dns_min_time_between_resolutions_ms", 100)]
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    query = request("gather", index=index(1))

    def config(host: str, port: int) -> ServerConfig:
        return ServerConfig(
            models=tmp_path, host=host, port=port, http_port=-1, connection_age_seconds=0.3, transport="grpc"
        )

    with (
        Server(config("127.0.0.1", 0)) as first,
        NameServer("127.0.0.1") as names,
        grpc.insecure_channel(f"dns://127.0.0.1:{names.port}/hangtag.example:{first.port}", options) as channel,
    ):
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        stub.ModelInfer(query, timeout=TIMEOUT)
        with Server(config("127.0.0.2", first.port)) as second:
            names.addresses.append("127.0.0.2")
            deadline = time.monotonic() + TIMEOUT
            while inference_count(second) < 50:
                stub.ModelInfer(query, timeout=TIMEOUT)
                assert time.monotonic() < deadline, f"{inference_count(first)} and {inference_count(second)} calls"
            assert inference_count(first) > 1
