"""The ports of ``hangtag serve``: turned off, in use, privileged, or of another machine; and what each needs."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.command import TIMEOUT, environment, hangtag, last_line, serving

pytestmark = pytest.mark.slow


def test_metrics_can_be_turned_off_and_the_error_names_a_port_in_use(models: Path) -> None:
    with socket.socket() as taken, serving("--models", str(models), "--port", "0", "--metrics-port", "-1") as server:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = hangtag("serve", "--models", str(models), "--port", "0", "--metrics-port", str(port))
        assert result.returncode == 1
        assert result.stderr.startswith(f"Error: cannot listen on 127.0.0.1:{port} for metrics: ")
        server.wait_until_ready()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert not any("event=metrics" in line for line in server.log)


def test_a_port_in_use_gives_one_clear_line(models: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = hangtag("serve", "--models", str(models), "--port", str(port))
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"Error: cannot listen on 127.0.0.1:{port}: another program has the port. ")


def test_the_http_port_can_be_turned_off_and_one_in_use_is_named(models: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = hangtag("serve", "--models", str(models), "--port", "0", "--http-port", str(port))
    assert result.returncode == 1
    assert last_line(result.stderr).startswith(f"Error: cannot listen on 127.0.0.1:{port} for HTTP: another program ")
    assert "--http-port (0 picks a free one, -1 turns HTTP off)" in last_line(result.stderr)
    with serving("--models", str(models), "--port", "0", "--http-port", "-1") as server:
        assert " http=" not in server.wait_for("ready")


@pytest.mark.parametrize("module", ["uvicorn", "starlette", "httptools", "python_multipart"])
def test_a_package_that_is_missing_for_http_is_named(models: Path, module: str) -> None:
    program = f"import sys; sys.modules[{module!r}] = None; from hangtag.cli import main; main()"
    command = [sys.executable, "-c", program, "serve", "--models", str(models), "--port", "0"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=environment())
    assert result.returncode == 1
    assert last_line(result.stderr) == (
        f"Error: HTTP needs the Python package '{module}'; install it with: pip install '.[rest]', or turn HTTP off "
        "with --http-port -1"
    )


def test_a_server_without_http_does_not_import_what_http_needs(models: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from hangtag.serving.server.config.server_config import ServerConfig\n"
        "from hangtag.serving.server.process.server import Server\n"
        "with Server(ServerConfig(models=Path(sys.argv[1]), port=0, http_port=-1)): pass\n"
        "print(*(name for name in ('uvicorn', 'starlette') if name in sys.modules))"
    )
    command = [sys.executable, "-c", program, str(models)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=environment())
    assert (result.returncode, result.stdout.splitlines()[-1]) == (0, "")


def test_the_command_that_shows_which_server_has_the_port_works(models: Path) -> None:
    with serving("--models", str(models), "--port", "0") as server:
        port = server.wait_until_ready().rpartition(":")[2]
        refused = hangtag("serve", "--models", str(models), "--port", port)
        suggested = re.search(r"see 'hangtag ([^']*)'", refused.stderr)
        assert suggested, refused.stderr
        shown = hangtag(*suggested[1].split())
    assert shown.stdout == f"the server at 127.0.0.1:{port} is ready\n"


@pytest.mark.parametrize(
    ("option", "what"), [("--port", ""), ("--http-port", " for HTTP"), ("--metrics-port", " for metrics")]
)
def test_a_privileged_port_names_the_permission_that_is_missing(models: Path, option: str, what: str) -> None:
    """Made to happen: the command runs without the capability that root usually has."""
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
    )
    assert result.returncode == 1
    line = last_line(result.stderr)
    assert line.startswith(
        f"Error: cannot listen on 127.0.0.1:81{what}: permission is missing, because ports below {first} "
    )
    assert f"Choose another port with {option} (0 picks a free one" in line


def test_an_address_of_another_machine_is_named(models: Path) -> None:
    result = hangtag("serve", "--models", str(models), "--host", "192.0.2.1", "--metrics-port", "-1")
    assert result.returncode == 1
    assert last_line(result.stderr).startswith(
        "Error: cannot listen on 192.0.2.1:8001: the address is not this machine's. "
    )
