"""``hangtag serve`` in a process of its own."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import onnx_models
from tests.kit.command import Serving, environment, hangtag, last_line, serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server for tests that leave it as it was; its port comes from a variable."""
    folder = tmp_path_factory.mktemp("models")
    onnx_models.publish(folder, "gather", onnx_models.gather())
    with serving("--models", str(folder), HANGTAG_SERVE_PORT="0") as server:
        server.wait_until_ready()
        yield server


def test_metrics_are_at_the_address_in_the_log(started: Serving) -> None:
    assert 'hangtag_model_ready{model="gather",version="1"} 1.0' in started.metrics()


def test_the_error_names_a_missing_repository(tmp_path: Path) -> None:
    result = hangtag("serve", "--models", str(tmp_path / "nowhere"), "--port", "0")
    assert result.returncode == 1
    assert last_line(result.stderr).startswith(f"Error: {tmp_path}/nowhere is not a folder. Name the model repository")


def test_the_error_names_an_empty_repository(tmp_path: Path) -> None:
    result = hangtag("serve", "--models", str(tmp_path), "--port", "0")
    assert result.returncode == 1
    assert last_line(result.stderr).startswith(f"Error: {tmp_path} holds no model")


def test_the_error_names_a_broken_model(models: Path) -> None:
    file = onnx_models.publish(models, "broken", onnx_models.gather())
    file.write_bytes(file.read_bytes()[:50])
    result = hangtag("serve", "--models", str(models), "--port", "0")
    assert result.returncode == 1
    assert last_line(result.stderr).startswith(f"Error: {file} cannot be loaded by ONNX Runtime")


def test_values_that_do_not_fit_together_are_explained(models: Path) -> None:
    result = hangtag("serve", "--models", str(models), "--max-batch-size", "512")
    assert result.returncode == 1
    assert last_line(result.stderr).startswith("Error: --max-queue-size (256) is below --max-batch-size (512)")


def test_listening_beyond_loopback_logs_a_warning(models: Path) -> None:
    with serving("--models", str(models), "--port", "0", "--host", "0.0.0.0") as server:
        server.wait_until_ready()
        (warning,) = [line for line in server.log if "level=warning" in line]
        assert "LISTENING BEYOND LOOPBACK: anybody may call (set --token-file) and all can be read on" in warning
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_the_port_may_come_from_a_variable(started: Serving) -> None:
    assert started.wait_until_ready().startswith("127.0.0.1:")
    assert not started.wait_until_ready().endswith(":8001")


def test_the_process_has_no_torch(models: Path) -> None:
    command = [sys.executable, "-m", "hangtag", "serve", "--models", str(models), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stderr
        try:
            assert any("event=ready " in line for line in process.stderr)
            mapped = Path(f"/proc/{process.pid}/maps").read_text()
        finally:
            process.kill()
    assert "onnxruntime" in mapped
    assert "torch" not in mapped


def test_health_returns_as_soon_as_a_later_server_is_ready(models: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serving("--models", str(models), "--port", str(port)) as server:
        # Its first attempts come while the server still imports.
        result = hangtag("health", "--server", f"127.0.0.1:{port}", "--wait", "30", "--model", "gather")
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout == f"gather at 127.0.0.1:{port} is ready\n"
        server.wait_until_ready()
