"""Commands that are given the port for metrics where they want the gRPC port, and the other way round."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner, Result

from hangtag.cli import main
from hangtag.serving.server.config.server_config import ServerConfig
from hangtag.serving.server.process.server import Server
from hangtag.serving.server.telemetry.http_endpoint import MetricsServer
from hangtag.serving.server.telemetry.prometheus import StateCollector


def hangtag(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def metrics_address(server: Server) -> Iterator[str]:
    http = MetricsServer(ServerConfig(metrics_port=0), StateCollector(server.state), lambda: True)
    yield f"127.0.0.1:{http.port}"
    http.close()


@pytest.mark.parametrize("command", ["health", "health --wait 0.1", "top --once", "models unload cnn", "classify"])
def test_the_port_for_metrics_is_explained(metrics_address: str, garment: Path, command: str) -> None:
    result = hangtag(*command.split(), *([garment] * (command == "classify")), "--server", metrics_address)
    assert result.exit_code == 1
    assert f"{metrics_address} is a hangtag server's port for metrics, and speaks HTTP: give --server" in result.stderr
    assert f"'hangtag top --metrics http://{metrics_address}/metrics' shows the metrics" in result.stderr


def test_the_port_for_metrics_is_explained_to_a_client_with_tls(metrics_address: str, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    result = hangtag("health", "--server", metrics_address, "--tls-ca", tmp_path / "ca.pem")
    assert f"{metrics_address} is a hangtag server's port for metrics" in result.stderr


@pytest.mark.parametrize("transport", ["native", "grpc"])
def test_the_grpc_port_has_no_metrics(models: Path, transport: str) -> None:
    with Server(ServerConfig(models=models, port=0, http_port=-1, transport=transport)) as server:
        url = f"http://{server.address}/metrics"
        result = hangtag("top", "--once", "--server", server.address, "--metrics", url)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith(f"Error: no metrics at {url}: ")
    assert "Give --metrics the server's port for metrics" in result.stderr
