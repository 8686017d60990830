"""Calls that are spread over several servers, each with its own health."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trustme

from hangtag.serving.client import Client, ClientError, ConnectionOptions
from hangtag.serving.credentials import Credentials
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from tests.kit import onnx_models
from tests.kit.kinds import KINDS, TIMEOUT, Kind
from tests.kit.live import LiveServer

pytestmark = pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.http], ids=str)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    onnx_models.publish(folder, "gather", onnx_models.gather())
    return folder


def config(models: Path, transport: str = "auto") -> ServerConfig:
    return ServerConfig(models=models, port=0, http_port=-1, transport=transport)


def address(*servers: Server) -> str:
    return "ipv4:" + ",".join(server.address for server in servers)


def call(client: Client, times: int) -> None:
    for _ in range(times):
        assert client.infer("gather", {"index": np.array([1])})["value"] == [10]


def answered(server: Server) -> int:
    (version,) = server.state().versions
    return version.counters.inference_count


def wait_for_ten_without_a_failure(client: Client) -> None:
    """Some may fail before the client learns of the server's health. Without that every other call would fail."""
    too_late = time.monotonic() + TIMEOUT
    while True:
        try:
            return call(client, 10)
        except ClientError:
            assert time.monotonic() < too_late


@contextmanager
def balanced(kind: Kind, one: LiveServer, two: LiveServer) -> Iterator[Client]:
    """A client that is connected to both."""
    options = ConnectionOptions(round_robin=True, retries=0)
    with kind.open(address(one.server, two.server), options=options) as client:
        while not (answered(one.server) and answered(two.server)):
            call(client, 1)
        yield client


@pytest.mark.parametrize("transport", ["native", "grpc"])
def test_every_server_gets_its_share(kind: Kind, transport: str, models: Path) -> None:
    with (
        LiveServer(config(models, transport)) as one,
        LiveServer(config(models, transport)) as two,
        balanced(kind, one, two) as client,
    ):
        before = answered(one.server), answered(two.server)
        call(client, 10)
        assert (answered(one.server), answered(two.server)) == (before[0] + 5, before[1] + 5)


def test_without_it_one_server_gets_every_call(kind: Kind, models: Path) -> None:
    with (
        LiveServer(config(models)) as one,
        LiveServer(config(models)) as two,
        kind.open(address(one.server, two.server)) as client,
    ):
        call(client, 10)
        assert sorted((answered(one.server), answered(two.server))) == [0, 10]


def test_a_server_that_stops_gets_no_more_calls(kind: Kind, models: Path) -> None:
    with (
        LiveServer(config(models)) as one,
        LiveServer(config(models)) as two,
        balanced(kind, one, two) as client,
        one.gate("gather") as gate,
    ):
        held = threading.Thread(target=call, args=(client, 2))  # one of the two calls is held by the gate
        held.start()
        gate.wait_until_computing()
        stop = threading.Thread(target=one.server.stop, args=(30,))
        stop.start()
        wait_for_ten_without_a_failure(client)
        before = answered(two.server)
        call(client, 10)
        assert answered(two.server) == before + 10
        gate.open()
        held.join()
        stop.join()


def test_with_tls_the_first_address_of_a_list_is_the_servers_name(kind: Kind, models: Path, tmp_path: Path) -> None:
    ca, cert, key = (tmp_path / name for name in ("ca.pem", "server.pem", "server.key"))
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(ca))
    issued.cert_chain_pems[0].write_to_path(str(cert))
    issued.private_key_pem.write_to_path(str(key))
    encrypted = replace(config(models), tls_cert=cert, tls_key=key)
    with Server(encrypted) as one, Server(replace(encrypted, host="127.0.0.2")) as two:
        options = ConnectionOptions(round_robin=True)
        with kind.open(address(one, two), credentials=Credentials(tls_ca=ca), options=options) as client:
            too_late = time.monotonic() + TIMEOUT
            while not (answered(one) and answered(two)):
                call(client, 1)
                assert time.monotonic() < too_late
