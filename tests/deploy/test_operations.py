"""Runs the commands of docs/operations.md, calls replicas by the options of docs/deploy.md, and checks envoy.yaml."""

import ast
import os
import re
import shutil
import socket
import socketserver
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import yaml

from hangtag import Client
from hangtag.protos import inference_pb2_grpc
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models
from tests.kit.command import ROOT
from tests.kit.live import index, request
from tests.kit.server import server
from tests.kit.waiting import TIMEOUT, until

TYPE_A = 1  # DNS record type: an IPv4 address
# A fake docker that logs its command lines: compose lists two replicas, and each is healthy at its second inspection.
FAKE_DOCKER = """#!/bin/sh
echo "$*" >> commands
case "$1" in
compose) echo first; echo second ;;
inspect) n=$(grep -c "^inspect.*$4$" commands); [ "$n" -ge 2 ] && echo healthy || echo starting ;;
esac
"""


def test_replicas_restart_one_after_another(tmp_path: Path) -> None:
    (block,) = re.findall(r"```sh\n(for replica.*?)```", (ROOT / "docs/operations.md").read_text(), re.DOTALL)
    for name, text in (("docker", FAKE_DOCKER), ("sleep", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(["sh", "-euc", block], cwd=tmp_path, env={"PATH": path}, check=True, timeout=30)
    commands = [line.split()[0] + " " + line.split()[-1] for line in (tmp_path / "commands").read_text().splitlines()]
    assert commands == [
        "compose server",
        "restart first", "inspect first", "inspect first",
        "restart second", "inspect second", "inspect second",
    ]  # fmt: skip


def test_a_call_upgrades_a_model_and_another_rolls_it_back(tmp_path: Path) -> None:
    """The page's command loads the newest version; before it, version 2 is published, and then moved away."""
    (command,) = re.findall(
        r"```sh\n(\S*hangtag models load .*?)```", (ROOT / "docs/operations.md").read_text(), re.DOTALL
    )
    models = tmp_path / "models"
    onnx_models.publish(models, "cnn", onnx_models.classifier())
    explicit = server(models, http_port=-1, model_control="explicit", load_model=("*",))
    with explicit as running, Client(running.address) as client:

        def load_and_list_versions() -> list[str]:
            local_command = command.replace("127.0.0.1:8001", running.address)
            activated = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
            subprocess.run(["sh", "-ec", local_command], cwd=ROOT, env=activated, check=True, timeout=60)
            return [each.version for each in client.statistics()]

        onnx_models.publish(models, "cnn", onnx_models.classifier(), version=2)
        assert load_and_list_versions() == ["2"]
        shutil.move(models / "cnn/2", tmp_path)
        assert load_and_list_versions() == ["1"]


def test_the_proxy_protects_the_servers_and_their_callers() -> None:
    proxy = yaml.safe_load((ROOT / "deploy/envoy.yaml").read_text())
    assert "admin" not in proxy
    (cluster,) = proxy["static_resources"]["clusters"]
    # Callers share no connection to a server: one who cancels many calls would end those of others.
    assert cluster["connection_pool_per_downstream_connection"] is True
    (limit, _) = proxy["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
    assert limit["typed_config"]["max_connections"] < ServerConfig().max_connections
    # A dead replica stays ejected until its health checks have failed, and gets no calls in between.
    (check,) = cluster["health_checks"]
    seconds = {name: float(check[name].removesuffix("s")) for name in ("interval", "timeout")}
    ejection_seconds = float(cluster["outlier_detection"]["base_ejection_time"].removesuffix("s"))
    assert ejection_seconds > check["unhealthy_threshold"] * sum(seconds.values())


@contextmanager
def name_server(addresses: list[str]) -> Iterator[int]:
    """The port of a DNS server (RFC 1035) that answers each query with the addresses that are in the list then."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            query, connection = self.request
            # The name starts at byte 12 and ends with 0. Its type and class follow, with two bytes each.
            end = query.index(b"\0", 12) + 5
            (record_type,) = struct.unpack("!H", query[end - 4 : end - 2])
            answered = list(addresses) if record_type == TYPE_A else []
            header = query[:2] + struct.pack("!HHHHH", 0x8180, 1, len(answered), 0, 0)
            record = b"\xc0\x0c" + struct.pack("!HHIH", TYPE_A, 1, 1, 4)  # points to the name at byte 12; valid for 1 s
            answers = b"".join(record + socket.inet_aton(address) for address in answered)
            connection.sendto(header + query[12:end] + answers, self.client_address)

    with socketserver.UDPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def inference_count(server: Server) -> int:
    with Client(server.address) as client:
        (statistics,) = client.statistics()
    return int(statistics.inference_count)


def test_with_the_documented_options_a_replica_that_starts_later_gets_calls(tmp_path: Path) -> None:
    (option,) = re.findall(r"^balanced = (.*)$", (ROOT / "docs/deploy.md").read_text(), re.MULTILINE)
    # By default gRPC resolves a name at most once in 30 s.
    options = [ast.literal_eval(option), ("grpc.dns_min_time_between_resolutions_ms", 100)]
    onnx_models.publish(tmp_path, "gather", onnx_models.gather())
    query = request("gather", index=index(1))

    addresses = ["127.0.0.1"]
    settings: dict[str, Any] = {"http_port": -1, "connection_age_seconds": 0.3, "transport": "grpc"}
    with (
        server(tmp_path, **settings) as first,
        name_server(addresses) as port,
        grpc.insecure_channel(f"dns://127.0.0.1:{port}/hangtag.example:{first.port}", options) as channel,
    ):
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        stub.ModelInfer(query, timeout=TIMEOUT)
        with server(tmp_path, host="127.0.0.2", port=first.port, **settings) as second:
            addresses.append("127.0.0.2")
            until(lambda: stub.ModelInfer(query, timeout=TIMEOUT) and inference_count(second) >= 20)
            assert inference_count(first) > 1
