"""``hangtag serve`` starts without needless imports, or explains in one line why it cannot start."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import onnx_models
from tests.kit.command import Serving, environment, hangtag, last_line, python, serving, without
from tests.kit.memory import held, most_held
from tests.kit.other_servers import hang_up, listener
from tests.kit.waiting import TIMEOUT

pytestmark = pytest.mark.slow

IMPORTED_WITH_HTTP = """
import sys
from pathlib import Path
import hangtag.commands.models
import hangtag.serving.server.cli
from tests.kit.server import server
with server(Path({!r})):
    pass
parts = ("obstore", "serving.stores", "platforms")
print([name for name in sys.modules if name.endswith(parts)])
"""
IMPORTED_WITHOUT_HTTP = """
import sys
from pathlib import Path
from tests.kit.server import server
with server(Path({!r}), http_port=-1):
    mapped = Path("/proc/self/maps").read_text()
print([name for name in ("httptools",) if name in sys.modules], "onnxruntime" in mapped, "torch" in mapped)
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server for tests that do not change it. An environment variable sets its port."""
    folder = tmp_path_factory.mktemp("models")
    onnx_models.publish(folder, "gather", onnx_models.gather())
    with serving("--models", str(folder), HANGTAG_SERVE_PORT="0") as server:
        server.wait_for("ready")
        yield server


def failure(*arguments: str) -> str:
    """Require that ``hangtag serve`` cannot start, and return the last line of its output, which explains why."""
    result = hangtag("serve", *arguments)
    assert result.returncode == 1
    return last_line(result.stderr)


def test_the_port_may_come_from_a_variable_and_the_log_has_all_addresses(started: Serving) -> None:
    address = started.address
    assert address.startswith("127.0.0.1:")
    assert not address.endswith(":8001")
    assert 'hangtag_model_ready{model="gather",version="1"} 1.0' in started.metrics()


def test_the_error_names_the_options_that_do_not_fit_or_the_file_that_is_missing_or_broken(models: Path) -> None:
    refused = failure("--models", str(models), "--max-batch-size", "512")
    assert refused.startswith("Error: --max-queue-size (256) is below --max-batch-size (512)")
    nowhere = models / "nowhere"
    assert failure("--models", str(nowhere), "--port", "0").startswith(f"Error: {nowhere} is not a folder. ")
    file = onnx_models.publish(models, "broken", onnx_models.gather())
    file.write_bytes(file.read_bytes()[:50])
    refused = failure("--models", str(models), "--port", "0")
    assert refused.startswith(f"Error: {file} cannot be loaded by ONNX Runtime")
    assert refused.endswith(
        "remove this version's folder, or return to an earlier version: 'hangtag models rollback broken'"
    )


def test_what_is_dangerous_or_names_nothing_is_a_warning(models: Path) -> None:
    options = ("--models", str(models), "--port", "0", "--transport", "grpc")
    limits = [word for each in ("gather=8", "gahter=8", "another=4") for word in ("--model-max-batch-size", each)]
    with serving(*options, "--host", "0.0.0.0", *limits) as server:
        server.wait_for("ready")
        warnings = [line for line in server.log if "level=warning" in line]
        (beyond,) = (line for line in warnings if "LISTENING BEYOND LOOPBACK" in line)
        assert "anybody may call (--token-file prevents this) and anybody can read all traffic" in beyond
        (unknown,) = (line for line in warnings if "--model-max-batch-size or --load-model names models" in line)
        assert "gahter" in unknown
        assert "another" in unknown
        assert "gather" not in unknown
    with serving(*options, "--max-loaded-mib", "9", "--load-model", "gather", "--load-model", "gahter") as server:
        warning = server.wait_for('"--model-max-batch-size or --load-model names models that the repository')
        assert "gahter" in warning
        assert "gather" not in warning
    with serving(*options, "--model-max-batch-size", "gather=8") as server:
        server.wait_for("ready")
        assert not any("level=warning" in line for line in server.log)


@pytest.mark.parametrize(
    ("option", "what"), [("--port", ""), ("--http-port", " for HTTP"), ("--metrics-port", " for metrics")]
)
def test_a_port_in_use_is_named(models: Path, option: str, what: str) -> None:
    ports = {"--port": "0", "--http-port": "0", "--metrics-port": "0"}
    with listener(hang_up) as taken:
        ports[option] = taken.rpartition(":")[2]
        refused = failure("--models", str(models), *(word for pair in ports.items() for word in pair))
    assert refused.startswith(f"Error: cannot listen on {taken}{what}: another program has the port")


def test_http_and_metrics_can_be_turned_off(models: Path) -> None:
    with serving("--models", str(models), "--port", "0", "--http-port", "-1", "--metrics-port", "-1") as server:
        assert " http=" not in server.wait_for("ready")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert not any("event=metrics" in line for line in server.log)


def test_what_the_largest_batch_takes_is_given_back_until_one_comes(tmp_path: Path) -> None:
    (tmp_path / "cnn").symlink_to(Path(__file__).parents[4] / "models/cnn")
    options = ("--models", str(tmp_path), "--port", "0", "--http-port", "-1", "--metrics-port", "-1")
    with serving(*options) as server:
        server.wait_for("ready")
        assert most_held(server.process.pid) - held(server.process.pid) > 16 << 20


REST = dict.fromkeys(("httptools", "python_multipart"), "rest")
BASE = dict.fromkeys(("grpc", "onnxruntime", "prometheus_client"), "cpu")


@pytest.mark.parametrize(("module", "extra"), [*REST.items(), *BASE.items()])
def test_a_package_that_is_missing_is_named_with_its_extra(models: Path, module: str, extra: str) -> None:
    result = without([module], "serve", "--models", models, "--port", 0)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    refused = last_line(result.stderr)
    assert f"'{module}'" in refused
    assert f"pip install '.[{extra}]'" in refused


def test_a_server_without_http_imports_nothing_that_http_needs_and_no_server_has_torch(models: Path) -> None:
    """A library can load torch without Python's knowledge, so the test searches the process's memory for torch."""
    result = python(IMPORTED_WITHOUT_HTTP.format(str(models)))
    assert (result.returncode, result.stdout.splitlines()[-1]) == (0, "[] True False")


def test_a_server_without_a_store_and_a_platform_imports_nothing_that_they_need(models: Path) -> None:
    result = python(IMPORTED_WITH_HTTP.format(str(models)))
    assert (result.returncode, result.stdout.splitlines()[-1]) == (0, "[]")


def test_the_command_that_shows_which_server_has_the_port_works(started: Serving) -> None:
    port = started.address.rpartition(":")[2]
    suggested = re.search(
        r"see 'hangtag ([^']*)'", failure("--models", str(Path(__file__).parents[4] / "models"), "--port", port)
    )
    assert suggested
    assert hangtag(*suggested[1].split()).stdout == f"the server at 127.0.0.1:{port} is ready\n"


@pytest.mark.parametrize("option", ["--port", "--http-port", "--metrics-port"])
def test_a_privileged_port_names_the_permission_that_is_missing(models: Path, option: str) -> None:
    """As root, the command runs without the capability to bind privileged ports, so it always fails."""
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first <= 81:
        pytest.skip(f"this kernel lets everybody bind ports from {first} on")
    ports = {"--port": "0", "--http-port": "0", "--metrics-port": "0"} | {option: "81"}
    result = subprocess.run(
        [
            *(("setpriv", "--bounding-set", "-net_bind_service") if os.geteuid() == 0 else ()),
            *(sys.executable, "-m", "hangtag", "serve", "--models", str(models)),
            *(word for pair in ports.items() for word in pair),
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=environment(),
        check=False,
    )
    assert result.returncode == 1
    line = last_line(result.stderr)
    assert line.startswith("Error: cannot listen on 127.0.0.1:81")
    assert "permission is missing" in line
    assert f"Choose another port with {option} (0 picks a free port" in line


def test_an_address_of_another_machine_is_named(models: Path) -> None:
    refused = failure("--models", str(models), "--host", "192.0.2.1", "--metrics-port", "-1")
    assert "cannot listen on 192.0.2.1:8001: this machine does not have the address" in refused
