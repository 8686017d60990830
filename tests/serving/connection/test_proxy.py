"""What a client says of a proxy: HAProxy, with the configuration that is shipped, in front of servers that are down."""

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from hangtag.serving.client import ClientError, ConnectionOptions
from tests.kit.kinds import KINDS, Kind

CONFIG = Path(__file__).parents[3] / "deploy" / "haproxy.cfg"
pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="HAProxy is not installed (Debian: haproxy)")


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HOST:PORT of a proxy whose servers are on ports that refuse connections."""
    with socket.create_server(("127.0.0.1", 0)) as own, socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))
        text = CONFIG.read_text()
        for host in ("10.0.0.11", "10.0.0.12", "10.0.0.13"):
            text = text.replace(f"{host}:8001", f"127.0.0.1:{refusing.getsockname()[1]}")
        file = tmp_path_factory.mktemp("proxy") / "haproxy.cfg"
        # HAProxy takes over the socket that listens, so that the first call finds it.
        file.write_text(text.replace("bind :8080", f"bind fd@{own.fileno()}"))
        process = subprocess.Popen(["haproxy", "-db", "-f", file], pass_fds=[own.fileno()])
        try:
            yield f"127.0.0.1:{own.getsockname()[1]}"
        finally:
            process.terminate()
            process.wait()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.http], ids=str)
def test_a_proxy_without_a_server_is_named(kind: Kind, proxy: str) -> None:
    # The first attempts find out that the servers are down.
    with kind.open(proxy, options=ConnectionOptions(retries=4)) as client, pytest.raises(ClientError) as caught:
        client.models()
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert str(caught.value) == f"a proxy at {proxy} answered HTTP 503 in place of a server"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.http], ids=str)
def test_a_wait_outlasts_a_proxy_without_a_server_and_names_it(kind: Kind, proxy: str) -> None:
    with kind.open(proxy) as client, pytest.raises(ClientError) as caught:
        client.wait_until_ready(1)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    # gRPC's asyncio may lose how the last attempt ended.
    how = f"a proxy at {proxy} .* a server|the stream to {proxy} ended before its requests"
    assert re.match(f"the server at {proxy} was not ready within 1 s: ({how})", str(caught.value))
